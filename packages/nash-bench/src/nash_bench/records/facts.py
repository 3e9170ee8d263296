"""The facts that a record is made of, immutable and validated at birth: accuracy, speed, hardware figures, identity.

Accuracies are percent, throughput is frames a second, resources are counts; a figure that is not known is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

RESOURCES = ("LUT", "FF", "BRAM_18K", "URAM", "DSP")
Origin = Literal["estimated", "simulated", "synthesized", "measured"]
Kind = Literal["baseline", "nash", "random"]  # random: a control, operations drawn at random
_ORIGINS = ("estimated", "simulated", "synthesized", "measured")


def _check(is_good: bool, key: str, got: object, expected: str) -> None:
    if not is_good:
        raise ValueError(f"{key}: got {got!r}, expected {expected}")


def _is_amount(value: float | None) -> bool:
    return value is None or (math.isfinite(value) and value >= 0)


@dataclass(frozen=True, kw_only=True)
class ClassAccuracy:
    """How often one class was recognized."""

    name: str
    num_samples: int
    top1: float | None

    def __post_init__(self) -> None:
        _check((self.top1 is None) == (self.num_samples == 0), "per_class.top1", self.top1, "a percentage of samples")


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Top-1 and top-5 accuracy in percent on one split of a dataset."""

    dataset: str
    split: str
    num_samples: int
    top1: float
    top5: float | None = None
    float_top1: float | None = None
    per_class: tuple[ClassAccuracy, ...] = ()

    def __post_init__(self) -> None:
        _check(self.num_samples >= 1, "accuracy.num_samples", self.num_samples, "at least 1")
        for key in ("top1", "top5", "float_top1"):
            value = getattr(self, key)
            is_percent = value is None or 0 <= value <= 100
            _check(is_percent, f"accuracy.{key}", value, "0..100 percent")
        is_ordered = self.top5 is None or self.top5 >= self.top1
        _check(is_ordered, "accuracy.top5", self.top5, f"at least top1 ({self.top1})")

    @property
    def key(self) -> tuple[str, str, int]:
        """Return what two accuracies must share to be compared: dataset, split, number of samples."""
        return self.dataset, self.split, self.num_samples

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        per_class = tuple(
            ClassAccuracy(name=entry["name"], num_samples=entry["num_samples"], top1=entry["top1"])
            for entry in value.get("per_class") or ()
        )
        known = {key: value.get(key) for key in ("dataset", "split", "num_samples", "top1", "top5", "float_top1")}
        return cls(**known, per_class=per_class)

    def to_json(self) -> dict[str, Any]:
        """Return the `accuracy` of a benchmark manifest."""
        return asdict(self) | {"per_class": [asdict(entry) for entry in self.per_class]}


@dataclass(frozen=True, kw_only=True)
class CpuThroughput:
    """Speed of the model on a CPU through onnxruntime.

    Throughput is the median of repeated measurements with their spread; latency is of one picture at a time.
    """

    throughput_fps: float
    batch_size: int
    num_threads: int | None = None
    num_repeats: int | None = None
    min_fps: float | None = None
    max_fps: float | None = None
    iqr_fps: float | None = None
    latency_p50_us: float | None = None
    latency_p99_us: float | None = None
    latency_num_runs: int | None = None

    def __post_init__(self) -> None:
        _check(self.throughput_fps > 0, "cpu.throughput_fps", self.throughput_fps, "more than 0")
        _check(self.batch_size >= 1, "cpu.batch_size", self.batch_size, "at least 1")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{field.name: value[field.name] for field in fields(cls) if field.name in value})


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Figures of one accelerator, all of one origin, and where they hold."""

    origin: Origin
    board: str
    clock_mhz: float
    throughput_fps: float | None
    latency_us: float | None
    LUT: float | None
    FF: float | None
    BRAM_18K: float | None
    URAM: float | None
    DSP: float | None
    power_w: float | None = None
    utilization: Mapping[str, float | None] | None = None
    target: str | None = None
    not_counted: tuple[str, ...] = ()
    num_unknown: Mapping[str, int] | None = None  # for each resource, the layers that its sum leaves out

    def __post_init__(self) -> None:
        _check(self.origin in _ORIGINS, "hardware.origin", self.origin, f"one of {', '.join(_ORIGINS)}")
        _check(self.clock_mhz > 0, "hardware.clock_mhz", self.clock_mhz, "more than 0")
        for key in ("throughput_fps", "latency_us", "power_w", *RESOURCES):
            _check(_is_amount(getattr(self, key)), f"hardware.{key}", getattr(self, key), "0 or more, or null")

    def is_lower_bound(self, resource: str) -> bool:
        """Return whether a resource's figure is known to leave out layers."""
        return getattr(self, resource, None) is not None and bool((self.num_unknown or {}).get(resource))

    @property
    def key(self) -> tuple[str, str]:
        """Return what two sets of hardware figures must share to be compared: board, origin."""
        return self.board, self.origin

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the record of a benchmark's `hardware`."""
        return cls(
            origin=value["origin"],
            board=value["board"],
            clock_mhz=value["clock_mhz"],
            throughput_fps=value["throughput_fps"],
            latency_us=value["latency_us"],
            power_w=value.get("power_w"),
            utilization=value.get("utilization"),
            target=value.get("target"),
            not_counted=tuple(value.get("not_counted") or ()),
            num_unknown=value.get("num_unknown"),
            **{key: value["resources"][key] for key in RESOURCES},
        )

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Return the record of a hardware manifest: what was measured if anything was, else simulated, else estimated.

        A simulation is of cycles, so frame rate and latency are simulated then and resources estimated; else no mix.
        """
        measured, simulated = manifest["measured"], manifest.get("simulated")
        figures, origin = manifest["estimated"], "estimated"
        if measured is not None:
            figures, origin = measured, measured.get("origin", "measured")
        elif simulated is not None:
            figures, origin = (
                {**figures, **{key: simulated[key] for key in ("throughput_fps", "latency_us")}},
                "simulated",
            )
        return cls.from_json(
            {
                "origin": origin,
                "board": manifest["board"],
                "clock_mhz": manifest["clock_mhz"],
                "throughput_fps": figures.get("throughput_fps"),
                "latency_us": figures.get("latency_us"),
                "power_w": figures.get("power_w"),
                "resources": figures["resources"],
                "utilization": figures.get("utilization"),
                "target": _target(manifest),
                "not_counted": figures.get("not_counted"),
                "num_unknown": figures.get("num_unknown"),
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return the `hardware` of a benchmark manifest."""
        return {
            "origin": self.origin,
            "board": self.board,
            "clock_mhz": self.clock_mhz,
            "throughput_fps": self.throughput_fps,
            "latency_us": self.latency_us,
            "power_w": self.power_w,
            "resources": {key: getattr(self, key) for key in RESOURCES},
            "utilization": dict(self.utilization or {}),
            "target": self.target,
            "not_counted": list(self.not_counted),
            "num_unknown": None if self.num_unknown is None else dict(self.num_unknown),
        }


def _recipe(training: Mapping[str, Any]) -> str | None:
    """Return what a network was trained by, in words."""
    if training.get("recipe") is None:
        return None
    return f"{training['recipe']}, {training['epochs']} epochs" if "epochs" in training else training["recipe"]


def _search_terms(search: Mapping[str, Any]) -> str | None:
    """Return in words what hardware costs a search was told to heed, or that of the network that one was drawn like."""
    costs = search.get("costs") or {}
    parts = [f"cost weight {costs['weight']:g} of {costs.get('resource')}"] if costs.get("weight") else []
    parts += [f"{name} <= {limit}" for name, limit in sorted((costs.get("budget") or {}).items())]
    parts += [f"total {name} <= {limit}" for name, limit in sorted((costs.get("total_budget") or {}).items())]
    if search.get("preset"):
        parts.append(f"quantized {search['preset']}")
    budget = (search.get("pareto") or {}).get("budget")
    parts += [] if budget is None else [f"within {budget:.4g}"]
    return ", ".join(parts) or None


def _target(manifest: Mapping[str, Any]) -> str | None:
    """Return in words what the accelerator was folded for, if its manifest says so."""
    target = manifest.get("target") or {}
    if target.get("target_fps") is not None:
        return f"{target['target_fps']:g} fps"
    if target.get("max_utilization") is not None:
        return f"{target['max_utilization']:.0%} of the board"
    return None


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which network this is, and how it is quantized."""

    name: str
    model_sha256: str
    backbone: str | None = None
    variant: str | None = None
    width: int | None = None
    preset: str | None = None
    weight_bits: int | None = None
    act_bits: int | None = None
    nas_weight_bits: int | None = None
    num_nas_ops: int | None = None
    num_params: int | None = None
    macs: int | None = None
    bops: int | None = None
    weight_memory_bits: int | None = None
    seed: int | None = None
    selected_on: str | None = None  # the split that its epoch was chosen on; None if on none, or not known
    join: str | None = None  # how its additions are formed; None if a file does not say
    recipe: str | None = None  # of its training, with the number of epochs
    searched_with: str | None = None  # the cost weight and the budgets of its search; None if it had neither
    drawn: int | None = None  # the seed that its operations were drawn at random by; None if they were not
    is_given: bool | None = None  # whether its operations are neither searched nor drawn; None if a file does not say

    def __post_init__(self) -> None:
        _check(bool(self.name), "name", self.name, "a name")
        is_hash = len(self.model_sha256) == 64 and set(self.model_sha256) <= set("0123456789abcdef")
        _check(is_hash, "model.sha256", self.model_sha256, "64 hexadecimal digits")

    @property
    def is_baseline(self) -> bool:
        """Return whether the network is its backbone alone, without NAS operations."""
        return self.variant is None and not self.num_nas_ops

    @property
    def kind(self) -> Kind:
        """Return what the network stands for in a comparison."""
        if self.is_baseline:
            return "baseline"
        return "nash" if self.drawn is None else "random"

    @property
    def bits(self) -> str | None:
        """Return the bit widths in short, as 'w4a4'."""
        return None if self.weight_bits is None else f"w{self.weight_bits}a{self.act_bits}"

    @property
    def is_selected_on_test(self) -> bool:
        """Return whether its epoch was chosen by the accuracy that is then reported, which flatters it."""
        return self.selected_on == "test"

    @classmethod
    def from_model(cls, manifest: Mapping[str, Any], sha256: str) -> Self:
        """Return the identity of a model manifest."""
        genotype, quantization, complexity = (manifest[k] for k in ("genotype", "quantization", "complexity"))
        network = genotype["copy"]
        layers = [layer for cell in network["cells"] for layer in cell["layers"]]
        training, search = manifest.get("training") or {}, network.get("search") or {}
        drawn = search.get("random") or {}
        return cls(
            name=manifest["name"],
            model_sha256=sha256,
            backbone=network.get("backbone"),
            variant=network.get("variant"),
            width=network["cells"][0]["layers"][0]["channels"],
            preset=quantization.get("preset"),
            weight_bits=quantization["weight_bits"],
            act_bits=quantization["act_bits"],
            nas_weight_bits=quantization["nas_weight_bits"],
            num_nas_ops=sum(layer["nas_op"] is not None for layer in layers),
            num_params=complexity["num_params"],
            macs=complexity["macs"],
            bops=complexity["bops"],
            weight_memory_bits=complexity["weight_bits"],
            seed=training.get("seed"),
            selected_on=(training.get("selection") or {}).get("split"),
            join=quantization.get("join"),
            recipe=_recipe(training),
            searched_with=_search_terms(drawn.get("like_search") or search),
            drawn=drawn.get("seed"),
            is_given=not search,
        )

    @classmethod
    def from_benchmark(cls, manifest: Mapping[str, Any]) -> Self:
        """Return the identity that a benchmark manifest carries."""
        carried = manifest.get("identity") or {}
        known = {field.name for field in fields(cls)} - {"name", "model_sha256", "backbone", "variant"}
        return cls(
            name=manifest["name"],
            model_sha256=manifest["model"]["sha256"],
            backbone=manifest.get("backbone"),
            variant=manifest.get("variant"),
            **{key: carried[key] for key in known if key in carried},
        )

    def to_json(self) -> dict[str, Any]:
        """Return the `identity` of a benchmark manifest: what its other keys do not say."""
        said = {"name", "model_sha256", "backbone", "variant"}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in said}
