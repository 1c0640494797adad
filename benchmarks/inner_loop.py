"""What a score job costs: the original's way, a careful practitioner's, ours, and the limit.

    python benchmarks/inner_loop.py                          every size and task
    python benchmarks/inner_loop.py --sizes minilm --tasks qa --repeats 3
    python benchmarks/inner_loop.py --sizes minilm --whole   nothing scaled from a few steps

All sides run the same job (data, weights, order, seed) in turn, each in a process of its own with
one thread. The plain side costs the same in every step, so that a few steps of each stage are
measured and scaled by their number; ``--whole`` measures all. Writes ``performance.json``,
``performance.png`` and the tables of ``performance.md`` into the output folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from inner_loop_parts.material import SIZES, load_questions, load_tokenizer, write_model
from inner_loop_parts.sides import SIDES

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LARGE = ("bert-base",)
"""Sizes of which our side, too, runs a few steps only, all sides one round, and jobs alone."""
EXTRAS = ("linearity", "shares", "testbed", "cores")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = found.add_argument
    add("--sizes", nargs="+", default=["tiny", "minilm", "bert-base"], choices=list(SIZES))
    add("--tasks", nargs="+", default=["qa", "classification"], choices=["qa", "classification"])
    add("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    add("--extras", nargs="*", default=list(EXTRAS), choices=EXTRAS)
    add("--contexts", type=int, default=40, help="masked (default: 40)")
    add("--questions", type=int, default=200, help="to fine-tune on, and to score on")
    add("--repeats", type=int, default=3, help="rounds of all sides (default: 3)")
    add("--steps", type=int, default=2, help="of each stage that are measured and scaled")
    add("--whole", action="store_true", help="measure all steps of all sides")
    add("--seed", type=int, default=0)
    add("--data-dir", help="SQuAD-format file or folder of data sets; else NMG_DATA, else made up")
    add("--device", default="cpu", help="cpu or cuda")
    add("--output", type=Path, default=Path(__file__).parents[1] / "docs")
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure and write the results."""
    args = parser().parse_args(argv)
    missing = [name for name in ("accelerate", "matplotlib") if find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        print(f"inner_loop.py also needs {names}: pip install {' '.join(missing)}", file=sys.stderr)
        return 2
    os.environ.update(dict.fromkeys(THREADS, "1"), TOKENIZERS_PARALLELISM="false")
    examples, source = load_questions(args.data_dir)
    tokenizer = load_tokenizer([example.context for example in examples])
    results: dict[str, Any] = {
        "command": "python benchmarks/inner_loop.py " + " ".join(argv or sys.argv[1:]),
        "data": source,
        "jobs": {"contexts": args.contexts, "questions": args.questions},
        "machine": machine(),
        "cases": [],
        "extras": {},
    }
    started = time.perf_counter()

    def save() -> str:
        """After every part, so that a run broken off leaves what it measured."""
        from inner_loop_parts.report import write

        results["minutes"] = (time.perf_counter() - started) / 60
        results["machine"]["load"] = round(os.getloadavg()[0], 2)
        args.output.mkdir(parents=True, exist_ok=True)
        found = json.dumps(results, indent=1)
        (args.output / "performance.json").write_text(found, encoding="utf-8")
        return write(results, args.output)

    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            place = Path(folder) / size
            model = write_model(size, tokenizer, place)
            for task in args.tasks:
                _say(f"{size}, {task}")
                results["cases"].append(_case(args, size, task, examples, tokenizer, place, model))
                save()
        for part in _extras(args, examples, tokenizer, Path(folder)):
            results["extras"] |= part
            save()
    print(save())
    return 0


def _case(
    args: Any,
    size: str,
    task: str,
    examples: Any,
    tokenizer: Any,
    place: Path,
    model: dict[str, int],
) -> dict[str, Any]:
    from inner_loop_parts.measure import measure_agents, measure_case

    few = 0 if args.whole else args.steps
    ours = few if size in LARGE else 0
    workload = _workload(args, task, examples, tokenizer, place)
    found = measure_case(
        workload,
        model,
        args.sides,
        steps={"plain": few, "common": few, "fp32": ours, "bf16": ours},
        repeats=1 if size in LARGE else args.repeats,
        device=args.device,
        say=_say,
    )
    case = {"size": size, "task": task, "model": model, **found}
    if size not in LARGE:
        case["agents"] = measure_agents(
            workload,
            args.sides,
            steps=args.steps,
            repeats=args.repeats,
            device=args.device,
            say=_say,
        )
    return case


def _workload(args: Any, task: str, examples: Any, tokenizer: Any, place: Path) -> Any:
    from inner_loop_parts.workload import make_workload

    return make_workload(
        task,
        examples,
        tokenizer,
        place,
        contexts=args.contexts,
        questions=args.questions,
        seed=args.seed,
    )


def _extras(args: Any, examples: Any, tokenizer: Any, folder: Path) -> Iterator[dict[str, Any]]:
    """One after another, on minilm or else the first size there is."""
    from inner_loop_parts.measure import measure_cores, measure_linearity, measure_two_rates
    from inner_loop_parts.shares import time_shares, time_testbed

    size = "minilm" if "minilm" in args.sizes else args.sizes[0]
    workload = _workload(args, "qa", examples, tokenizer, folder / size)
    part = workload.cut(5)
    yield {"size": size}
    if "linearity" in args.extras:
        _say(f"linearity, {size}")
        yield {"linearity": measure_linearity(workload, args.device, args.repeats)}
    if "shares" in args.extras:
        _say(f"shares, {size}")
        yield {"shares": {p: time_shares(part, p) for p in ("fp32", "bf16")}}
    if "testbed" in args.extras:
        _say("testbed")
        yield {"testbed": time_testbed()}
    if "cores" in args.extras:
        _say(f"two cores, {size}")
        rates = measure_two_rates(args.device)
        cores = {p: measure_cores(part, p, args.repeats) for p in ("fp32", "bf16")}
        yield {"rates": rates, "cores": cores}


def machine() -> dict[str, Any]:
    """What it was measured on."""
    import torch
    import transformers

    from envs.models.native.library import instruction_set

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "native": instruction_set(),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
