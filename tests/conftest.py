"""Paths and settings that every test shares."""
import os, sys
from pathlib import Path
os.environ.setdefault('MPLBACKEND', 'agg')
ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT/'tools'), str(ROOT/'nbs'/'_ext')]
