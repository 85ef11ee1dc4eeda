"""A measurement as one table for a person."""

from rich import box
from rich.table import Table

from smallvit.bench.floors import step_flop
from smallvit.bench.record import BenchRecord, Speed

FIELD_NAMES = {"model.embed_dim": "width", "model.patch_size": "patch", "train.batch_size": "batch"}


def bench_table(record: BenchRecord) -> Table:
    """Return the table: a row a measured call, in milliseconds, images/s and GFLOP/s, and beside the bare step."""
    config, machine = record.config, record.machine
    table = Table(title=_title(record), title_justify="left", caption=_caption(record), caption_justify="left")
    table.box, table.pad_edge = box.SIMPLE, False
    table.add_column("measured")
    for heading in ("ms", "images/s", "GFLOP/s", "of peak", "of step"):
        table.add_column(heading, justify="right", no_wrap=True)
    step = record.speeds["step"]

    def add(name: str, speed: Speed, macs: int | None, flop_share: float = 1.0) -> None:
        flop = None if macs is None else step_flop(macs, 1) * flop_share * speed.images_per_second
        peak = machine.peak_flop_per_second[record.choices.precision]
        table.add_row(
            name,
            f"{1e3 * speed.seconds:,.1f}",
            f"{speed.images_per_second:,.0f}",
            "" if flop is None else f"{flop / 1e9:,.0f}",
            "" if flop is None else f"{flop / peak:.0%}",
            f"{speed.images_per_second / step.images_per_second:.2f}",
        )

    macs = record.num_macs
    add(f"step, batch {config['train']['batch_size']}", step, macs)
    for name, seconds in record.step_parts.items():
        table.add_row(f"  {name}", f"{1e3 * seconds:,.1f}", "", "", "", "")
    add("augmentation", record.speeds["augmentation"], None)
    add("pipeline: both, as a run", record.speeds["pipeline"], macs)
    add("evaluation", record.speeds["evaluation"], macs, 1 / 3)
    for peer in record.peers:
        add(f"step of {peer.name} {peer.version}", peer.step, None)
    for point in record.sweep:
        name = f"step, {FIELD_NAMES[point.field]} {point.value}"
        if point.field == "model.patch_size":
            name += f" ({point.num_tokens} tokens)"
        if point.step is None:
            table.add_row(name, "left out")
        else:
            add(name, point.step, point.num_macs)
    for name, peak in machine.peak_flop_per_second.items():
        table.add_row(f"GEMM {name}", "", "", f"{peak / 1e9:,.0f}", "", "")
    return table


def _title(record: BenchRecord) -> str:
    size = f"{record.num_parameters / 1e6:.2f} M parameters, {record.num_macs / 1e6:,.1f} M MACs an image"
    return f"{record.config['recipe']}: {size}"


def _caption(record: BenchRecord) -> str:
    floors, machine = record.floor_seconds, record.machine
    memory = "allocated" if record.choices.device == "cuda" else "grown by"
    lines = [
        f"floors of a step: arithmetic {1e3 * floors['arithmetic']:,.1f} ms, bytes {1e3 * floors['bytes']:,.1f} ms "
        f"(copy {machine.copy_bytes_per_second / 1e9:,.0f} GB/s)",
        f"GEMM of {machine.gemm}; first step {record.first_step_seconds:.1f} s; "
        f"peak memory {record.peak_memory_bytes / 2**20:,.0f} MiB {memory}",
        f"load before {record.load_before:.1f}: beside other work a speed is not a speed",
    ]
    return "\n".join(lines)
