"""Offline compile of flow_clusters.cu: registers, spills, per (groups, state, multicast, times)."""
import itertools, os, re, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
from pi_vla_ros.kernels.cuda import SHARED, mma, source_of

def one(args):
    groups, state, multicast, by_head, times = args
    ring = (SHARED - 3072 - 16 * groups * 1024 - 1024) // 9216
    d = {"GROUPS": groups, "STATE": state, "LAYERS": 18, "RING": ring, "MULTICAST": multicast, "BY_HEAD": by_head, "TIMES": times}
    text = source_of("flow_clusters", d, (mma(24), mma(40), mma(64), mma(64, transposed=True)))
    with tempfile.TemporaryDirectory() as t:
        Path(t, "k.cu").write_text(text)
        out = subprocess.run(["/usr/local/cuda-13.0/bin/nvcc", "-arch=sm_90a", "-Xptxas", "-v", "-cubin", "-o", os.environ.get("CUBIN", t + "/k.cubin"), t + "/k.cu"],
                             capture_output=True, text=True)
        return args, ring, out.stderr

cases = [tuple(map(int, sys.argv[1]))] if len(sys.argv) > 1 else list(itertools.product((7, 8), (0, 1), (0, 1), (0, 1), (0, 1)))
with ThreadPoolExecutor(2) as pool:
    for args, ring, text in pool.map(one, cases):
        lines = [l for l in text.splitlines() if re.search("error|spill|registers|wgmma|C75|warning", l) and "INFINITY" not in l]
        print(args, "ring", ring, *lines, sep="\n   ")
