#!/usr/bin/env python3
"""Where the seconds of a set-up go, in new processes. PYTHONPATH=. python3 measure_setup.py [--tiny]

One JSON line a process: total_s is bench's init_s plus imports and context. Phases that contain others are marked +;
seconds in threads are under "threads". A phase ends with a wait for the GPU."""
import contextlib, cProfile, functools, io, json, os, pstats, subprocess, sys, tempfile, threading, time

TINY = "--tiny" in sys.argv
BUDGET = 95.0

def parent():
    begun = time.time()
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as second:
        runs = [  # label, model, caches' folder, options; most important first
            ("cold", "pi05", cache, []), ("warm", "pi05", cache, []), ("warm again", "pi05", cache, []),
            ("warm but for Triton's", "pi0", cache, []), ("warm", "pi0", cache, []),
            ("warm, profiled", "pi05", cache, ["--profile"]),
            ("cold, one kernel after the other", "pi05", second, ["--serial"]),
        ]
        for label, model, folder, options in runs:
            left = BUDGET - (time.time() - begun)
            if left < (22 if "cold" in label else 9) and not TINY:
                print(json.dumps({"run": label, "model": model, "left_out": f"{left:.0f} s left"}), flush=True)
                continue
            env = os.environ | {"TRITON_CACHE_DIR": f"{folder}/triton", "CUDA_CACHE_PATH": f"{folder}/cuda", "XDG_CACHE_HOME": folder,
                                "STARTED": repr(time.time())}
            try:
                ran = subprocess.run([sys.executable, __file__, "--child", model, *options, *(["--tiny"] * TINY)], env=env, capture_output=True, text=True, timeout=max(left, 10) if not TINY else 300)
                row = json.loads(ran.stdout.splitlines()[-1]) if ran.returncode == 0 else {"failed": (ran.stderr or ran.stdout)[-700:]}
                said = [l for l in ran.stderr.splitlines() if "Warning" in l]
                if said: row["said"] = said[0][-300:]
            except subprocess.TimeoutExpired as error:
                row = {"failed": "timeout", "stderr": str(error.stderr or "")[-500:]}
            kept = [os.path.getsize(f"{d}/{f}") for d, _, fs in os.walk(f"{folder}/pi_vla_ros/kernels") for f in fs]
            print(json.dumps({"run": label, "model": model} | row | {"kept": [len(kept), sum(kept)]}), flush=True)

def child(model):
    started = float(os.environ["STARTED"])
    spent, threads = {}, {"nvrtc": [], "triton": []}
    clock = time.perf_counter
    t0 = clock(); launched = time.time() - started
    import torch
    t1 = clock()
    from pi_vla_ros.bench.case import Case
    from pi_vla_ros.bench import measure
    t2 = clock()
    import triton
    import triton.compiler
    from pi_vla_ros.engine import engine as E
    from pi_vla_ros.engine.fused import runner as R, stages as S
    from pi_vla_ros.kernels import code_cache, compiling, cuda, flow_loop, nvrtc
    t3 = clock()
    gpu = torch.cuda.is_available()
    if gpu:
        torch.zeros(1, device="cuda"); torch.cuda.synchronize()
    t4 = clock()
    head = {"interpreter": launched, "import torch": t1 - t0, "import package": t2 - t1, "import triton, runner": t3 - t2, "context": t4 - t3}
    def settle():
        if gpu and not torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()
    @contextlib.contextmanager
    def timed(name):
        begin = clock()
        try: yield
        finally:
            settle()
            spent[name] = spent.get(name, 0.0) + clock() - begin
    def time_it(owner, attribute, name):
        plain = getattr(owner, attribute)
        @functools.wraps(plain, updated=())
        def wrapped(*a, **k):
            with timed(name): return plain(*a, **k)
        setattr(owner, attribute, wrapped)
    time_it(E.Engine, "_build", "weights")
    time_it(E, "begun", "flow_loop begun")
    time_it(E, "question", "question")
    time_it(E.ReferenceRunner, "run", "reference's answer")
    time_it(R.FusedRunner, "__init__", "+runner")
    time_it(R, "vision_stage", "vision packed")
    time_it(R.PrefixStage, "__init__", "prefix packed")
    time_it(R.ExpertStage, "__init__", "+expert packed, loop waited for")
    stage = sys.modules[R.ExpertStage.__module__]
    time_it(stage, "fits", "loop waited for")
    for name in ("gemma_layer", "modulations", "FlowLoop"): time_it(stage, name, f"expert: {name}")
    time_it(R, "Frames", "frames"); time_it(R, "Arena", "arena"); time_it(R, "drop", "dropped")
    time_it(R.FusedRunner, "prepare", "+prepare")
    time_it(E, "compare", "comparison"); time_it(R.FusedRunner, "run", "+answers (trial, first steps)")
    time_it(E.Engine, "step", "+first step")
    load = cuda.Kernel._function.func
    def loaded(kernel):
        with timed("+CUDA kernels waited for"): return load(kernel)
    cuda.Kernel._function = functools.cached_property(loaded); cuda.Kernel._function.__set_name__(cuda.Kernel, "_function")
    plain_only = R.only_compiled
    @contextlib.contextmanager
    def only():
        begin = clock()
        with plain_only():
            yield
            spent["compiling: launches"] = spent.get("compiling: launches", 0) + clock() - begin; begin = clock()
        settle()
        spent["compiling: waited"] = spent.get("compiling: waited", 0) + clock() - begin
    R.only_compiled = only
    if "--serial" in sys.argv:
        R.only_compiled = contextlib.nullcontext
        E.begun = lambda *a, **k: None
        cuda._compilers.submit = lambda f, *a: type("Now", (), {"result": lambda self, code=f(*a): code})()
    def capturing(plain):
        def made(*a, **k):
            context = plain(*a, **k)
            @contextlib.contextmanager
            def around():
                begin = clock()
                with context: yield
                spent["captures"] = spent.get("captures", 0) + clock() - begin
            return around()
        return made
    prepared = R.FusedRunner._prepared
    def by_kind(self, part, *sizes):
        with timed(f"graphs {part.__name__}: first run and capture"):
            return prepared(self, part, *sizes)
    R.FusedRunner._prepared = by_kind
    graph = torch.cuda.graph
    torch.cuda.graph = capturing(graph)
    compiled, read = nvrtc.compiled, code_cache._read
    lock, hits = threading.Lock(), [0, 0.0]
    def nvrtc_compiled(text, name):
        begin = clock(); code = compiled(text, name)
        with lock: threads["nvrtc"].append((round(clock() - begin, 2), name, round(begin - t4, 1)))
        return code
    def cache_read(path):
        begin = clock(); code = read(path)
        with lock: hits[0] += code is not None; hits[1] += clock() - begin
        return code
    nvrtc.compiled, code_cache._read = nvrtc_compiled, cache_read
    triton_compile = triton.compiler.compile
    def triton_compiled(src, *a, **k):
        begin = clock(); result = triton_compile(src, *a, **k)
        with lock: threads["triton"].append((round(clock() - begin, 3), getattr(src, "name", "?")))
        return result
    triton.compiler.compile = triton_compiled
    profile = cProfile.Profile() if "--profile" in sys.argv else None
    if profile: profile.enable()
    begin = clock()
    case = Case(model=model, tiny=TINY, precision="fp32" if TINY else "bf16", views=3)
    if TINY:
        engine = case.engine(torch.device("cpu"))
        engine.fused = True
        kept = engine._runner
        from pi_vla_ros.checkpoint import random_model
        engine._runner = engine._make_runner(lambda: random_model(engine.geometry, seed=1), captured=True)
        engine.step(case.request(engine))
        ours = isinstance(engine._runner, R.FusedRunner)
    else:
        subject = measure.Subject(case, torch.device("cuda"))
        engine, ours = subject.engine, subject.engine.fused
    init = clock() - begin
    row = {"total_s": round(sum(head.values()) + init, 2), "init_s": round(init, 2), "fused": ours, "cuda": gpu and cuda.available(torch.device("cuda")), "graphs": len(engine._runner._graphs),
           "s": {k: round(v, 2) for k, v in (head | spent).items() if v >= 0.005}}
    for kind, all_ in threads.items():
        all_.sort(reverse=True)
        row[kind] = {"count": len(all_), "sum": round(sum(x[0] for x in all_), 2), "longest": all_[:4 if kind == "triton" else 6]}
    row["from disk"] = [hits[0], round(hits[1], 3)]
    if profile:
        profile.disable()
        text = io.StringIO()
        pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(14)
        lines = [l.split(None, 5) for l in text.getvalue().splitlines() if l.strip()[:1].isdigit() and l.count("(")]
        row["own s"] = [f"{l[1]} {l[0]}x {l[5][-58:]}" for l in lines if len(l) == 6]
        row.pop("nvrtc"), row.pop("triton")
    print(json.dumps(row), flush=True)
    engine.close()

if __name__ == "__main__":
    if "--child" in sys.argv: child(sys.argv[sys.argv.index("--child") + 1])
    else: parent()
