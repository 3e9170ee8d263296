"""ONNX and npz files that anybody may have written: what they declare is checked before it is allocated or computed.

Nothing is unpickled, and nothing is read from outside the folder of the file.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .json_file import Unreadable
from .quoting import brief

if TYPE_CHECKING:
    import numpy as np
    import onnx

MAX_BYTES = 2**31  # of an ONNX file, as protobuf has it, and of the arrays of an npz together
_MAX_INPUT = 2**31  # values
_ARRAY_ERRORS = (OSError, ValueError, KeyError, EOFError, TypeError, SyntaxError, zipfile.BadZipFile, zlib.error)


def onnx_model(path: Path, *, is_alone: bool = True) -> onnx.ModelProto:
    """Read an ONNX file whose tensors have the size that they declare, and hold numbers.

    is_alone: all its tensors must lie in it; else they may lie in other files of its folder.

    Raises:
        Unreadable: it is missing, no ONNX, or one of these does not hold.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        if path.stat().st_size >= MAX_BYTES:
            raise Unreadable(f"an ONNX file of more than {MAX_BYTES // 2**20:,} MiB")
        model = onnx.load_from_string(path.read_bytes())
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from error
    except (DecodeError, ValueError, MemoryError, RecursionError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable("not a whole ONNX file") from error
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            if is_alone:
                name = brief(tensor.name)
                raise Unreadable(f"tensor {name} lies in another file; save the model with its weights inside")
            _load_external(tensor, path.resolve().parent)
        _check_tensor(tensor)
    for value in model.graph.input:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if any(dim < 0 for dim in dims) or math.prod(max(dim, 1) for dim in dims) > _MAX_INPUT:
            raise Unreadable(f"input {brief(value.name)} has the shape {brief(dims)}")
    for node in model.graph.node:
        if not node.op_type or not node.output or not all(node.output[:1]):
            raise Unreadable(f"node {brief(node.name)} has no operator or no output")
    return model


def _tensors(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    single = [attribute.t for attribute in attributes if attribute.HasField("t")]
    several = [tensor for attribute in attributes for tensor in attribute.tensors]
    return [*graph.initializer, *single, *several]


def _load_external(tensor: onnx.TensorProto, folder: Path) -> None:
    from onnx.external_data_helper import load_external_data_for_tensor

    told = {entry.key: entry.value for entry in tensor.external_data}
    location = told.get("location", "")
    name = f"tensor {brief(tensor.name)} lies in {brief(location)}, which"
    if not location or "\0" in location or Path(location).is_absolute():
        raise Unreadable(f"{name} is no file beside the model")
    path = (folder / location).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise Unreadable(f"{name} is no file beside the model")
    try:
        end = int(told.get("offset", "0")) + int(told.get("length", "0"))
        if not 0 <= end <= path.stat().st_size:
            raise Unreadable(f"{name} has no {end:,} bytes")
        load_external_data_for_tensor(tensor, str(folder))
    except (OSError, ValueError) as error:
        raise error if isinstance(error, Unreadable) else Unreadable(f"{name} cannot be read") from error
    tensor.ClearField("data_location")
    del tensor.external_data[:]


def _check_tensor(tensor: onnx.TensorProto) -> None:
    import numpy as np
    from onnx import numpy_helper

    name = f"tensor {brief(tensor.name)}"
    if any(dim < 0 for dim in tensor.dims):
        raise Unreadable(f"{name} has the shape {brief([*tensor.dims])}")
    try:
        values = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError) as error:
        raise Unreadable(f"{name} is not what its shape {brief([*tensor.dims])} and type declare") from error
    if values.dtype.kind not in "biuf":
        raise Unreadable(f"{name} holds {values.dtype}, expected numbers")
    is_weight = values.ndim > 1
    if values.dtype.kind == "f" and not (np.isfinite(values) if is_weight else ~np.isnan(values)).all():
        raise Unreadable(f"{name} holds NaN or infinity")


def arrays(path: Path, *names: str, optional: Iterable[str] = ()) -> dict[str, np.ndarray[Any, Any]]:
    """Read arrays of numbers of an npz file, of the `optional` ones those that are there.

    Raises:
        Unreadable: it is missing, no npz, misses one, or one is not of the size that it declares.
    """
    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise Unreadable(f"arrays of more than {MAX_BYTES // 2**20:,} MiB")
            there = {member.filename.removesuffix(".npy") for member in archive.infolist()}
            wanted = [*names, *(name for name in optional if name in there)]
            for name in wanted:
                _check_array(archive, name)
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in wanted}
    except FileNotFoundError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from error
    except Unreadable:
        raise
    except _ARRAY_ERRORS as error:
        raise Unreadable(f"not a whole npz file ({brief(str(error), 100, is_text=True)})") from error


def _check_array(archive: zipfile.ZipFile, name: str) -> None:
    from numpy.lib import format as npy

    try:
        member = archive.getinfo(f"{name}.npy")
    except KeyError as error:
        raise Unreadable(f"misses the array {name}") from error
    with archive.open(member) as file:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(file)
    if dtype.kind not in "biuf":
        raise Unreadable(f"{name} holds {dtype}, expected numbers")
    if math.prod(shape) * dtype.itemsize > member.file_size or any(size < 0 for size in shape):
        raise Unreadable(f"{name} has the shape {brief([*shape])}, which does not fit its {member.file_size:,} bytes")
