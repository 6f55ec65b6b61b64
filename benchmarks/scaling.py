"""What a training step needs of every device and sends between them, read from its compiled module: nothing is run.

One row for every combination, on forced CPU devices: of one device MB of arguments (states, teachers' outputs,
batch) and of temporaries, and its Gflop; MB and number of the collectives. A mesh is D, or DxF with parameters
split over F. --batches are global. The module is the CPU's: what a GPU's or TPU's compiler fuses needs fewer
temporaries, and combines collectives; their bytes are the same."""

import itertools
import json
import math
import os
import re
from pathlib import Path

from record import Measured, Table, at_least

SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_LINE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


def collectives(module: str) -> dict[str, tuple[int, int]]:
    """Of a compiled module's text: kind -> (how many, bytes of what they return on one device)."""
    sums = dict.fromkeys(KINDS, (0, 0))
    for result, kind in _LINE.findall(module):
        arrays = [
            (SIZES[t], math.prod(map(int, filter(None, shape.split(","))))) for t, shape in _ARRAY.findall(result)
        ]
        count, size = sums[kind]
        sums[kind] = count + 1, size + sum(each * values for each, values in arrays)
    return {kind: value for kind, value in sums.items() if value[0]}


def account(program) -> dict:
    """Of one device: bytes of arguments and temporaries, flops; and the collectives."""
    memory = program.memory_analysis()
    sizes = {"arguments": memory.argument_size_in_bytes, "temporaries": memory.temp_size_in_bytes}
    return {**sizes, "flops": program.cost_analysis()["flops"], "collectives": collectives(program.as_text())}


def flags(parser) -> None:
    parser.add_argument("--meshes", default="1,4,2x2")
    parser.add_argument("--pair", default="resnet20,resnet8", help="TEACHER,STUDENT")
    parser.add_argument("--methods", default="kd,skd", help="as configs/compose.py spells them, joined by commas")
    parser.add_argument("--batches", default="16")
    parser.add_argument("--classes", default="100")
    parser.add_argument("--image", type=int, default=32)
    parser.add_argument("--scope", default="global", choices=("global", "device"))
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--simplifier", default="batch", help="of skd; the one that sends something")
    parser.add_argument("--json", type=Path, help="file for the unrounded numbers")


def check(flags, parser) -> None:
    at_least(parser, flags, image=1)
    try:
        flags.meshes = [tuple(map(int, mesh.split("x"))) for mesh in flags.meshes.split(",")]
        flags.batches, flags.classes = ([int(n) for n in x.split(",")] for x in (flags.batches, flags.classes))
    except ValueError as e:
        parser.error(f"{e}; --meshes, --batches and --classes are numbers joined by commas, a mesh may be DxF")
    flags.error = parser.error


def measure(flags) -> Measured:
    count = max(map(math.prod, flags.meshes))
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import programs
    from kd_jax import InputError

    methods, numbers, rows = tuple(flags.methods.split(",")), [], []
    for mesh, batch, classes in itertools.product(flags.meshes, flags.batches, flags.classes):
        how = {"data__synthetic__classes": classes, "parallel__mesh": mesh, "parallel__scope": flags.scope}
        if "skd" in methods:
            how["skd__refine__skd__simplifier"] = flags.simplifier
        try:
            prepared = programs.prepare(flags.pair, methods, batch, flags.image, **how, precision=flags.precision)
        except InputError as e:
            flags.error(str(e))
        plans = {plan.name: plan for plan in prepared.plans}
        for method in methods:
            each = account(plans[method.replace("+", "_")].traced.train.lower().compile())
            numbers.append({"method": method, "mesh": mesh, "batch": batch, "classes": classes, **each})
            sent = ", ".join(f"{kind} {size / 1e6:.3f} ({n})" for kind, (n, size) in each["collectives"].items())
            sizes = [f"{each[name] / 1e6:.2f}" for name in ("arguments", "temporaries")]
            rows.append([method, "x".join(map(str, mesh)), batch, classes, *sizes, f"{each['flops'] / 1e9:.3f}"])
            rows[-1].append(sent or "none")
    if flags.json:
        flags.json.write_text(json.dumps(numbers, indent=1) + "\n")
    how = f"{flags.pair}, images {flags.image} x {flags.image}, {flags.precision}, scope {flags.scope}; of one device"
    heads = ("method", "mesh", "batch", "classes", "arguments, MB", "temporaries, MB", "Gflop")
    return Measured([Table(how, (*heads, "collectives, MB (number)"), rows)])
