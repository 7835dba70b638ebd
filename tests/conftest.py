"""One thread a process, set before torch is imported: two torch threads on a busy machine are tens of times slower."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
