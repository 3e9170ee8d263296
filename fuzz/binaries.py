"""Broken ONNX, npz and safetensors files: the format's own declarations are changed, not bytes alone."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile

from mutations import mutated_bytes

_SIZES = (0, 1, -1, 2**20, 2**33, 2**40, 2**62)


def mutated_npz(content: bytes, dice: random.Random) -> bytes:
    """Return an npz whose arrays have other shapes, types or values, or lie about their size."""
    import numpy as np

    if dice.random() < 0.3:
        return mutated_bytes(content, dice)
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    name = dice.choice([*arrays])
    array = arrays[name]
    what = dice.randrange(9)
    if what == 0:
        return _with_header(arrays, name, dice)
    if what == 1:
        return _bomb(arrays, name)
    changes = {
        2: lambda: array.astype(dice.choice(("float16", "float64", "int8", "complex64", "U4", "bool"))),
        3: lambda: np.array([{"a": 1}, None], dtype=object),
        4: lambda: np.full_like(array, np.nan) if array.dtype.kind == "f" else array[:0],
        5: lambda: array[:0],
        6: lambda: array.reshape(-1),
        7: lambda: np.array(array.flat[0]) if array.size else array,
        8: lambda: array * 1e30 if array.dtype.kind == "f" else array + 1,
    }
    arrays[name] = changes[what]()
    if dice.random() < 0.2:
        arrays[dice.choice(("", "other", "a/../../b"))] = arrays.pop(name)
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _with_header(arrays: dict, name: str, dice: random.Random) -> bytes:
    header = repr({"descr": "<f4", "fortran_order": False, "shape": (dice.choice(_SIZES), 3, 16, 16)}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + arrays[name].tobytes()
    return _zipped({f"{name}.npy": array})


def _bomb(arrays: dict, name: str) -> bytes:
    header = repr({"descr": "<f4", "fortran_order": False, "shape": (2**27, 1)}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    return _zipped({f"{name}.npy": start + bytes(2**29)})


def _zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def mutated_safetensors(content: bytes, dice: random.Random) -> bytes:
    """Return safetensors whose header or values were changed."""
    if dice.random() < 0.3:
        return mutated_bytes(content, dice)
    (length,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    names = [name for name in header if name != "__metadata__"]
    name = dice.choice(names)
    what = dice.randrange(8)
    if what == 0:
        return struct.pack("<Q", dice.choice((0, 2**20, 2**40, 2**63))) + content[8:]
    if what == 1:
        header[name]["shape"] = [dice.choice((0, 1, 2**40, -1, 3.0))]
    elif what == 2:
        header[name]["dtype"] = dice.choice(("F64", "I8", "BOOL", "F8_E4M3", "X", 7))
    elif what == 3:
        header[name]["data_offsets"] = [0, dice.choice((4, 2**40, -4))]
    elif what == 4:
        header[dice.choice(("", "other", "a\u0000b", "\u001b[31m"))] = header.pop(name)
    elif what == 5:
        start, end = header[name]["data_offsets"]
        body[start:end] = struct.pack("<f", float("nan")) * ((end - start) // 4) + body[end - (end - start) % 4 : end]
    elif what == 6:
        metadata = header.get("__metadata__", {})
        key = dice.choice([*metadata, "other"])
        metadata[key] = dice.choice(("", "null", "[" * 5000, "{}", "NaN", str(metadata.get(key))[:-20], "9" * 5000))
        header["__metadata__"] = metadata
    else:
        del header[name]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(body)


def mutated_onnx(content: bytes, dice: random.Random) -> bytes:
    """Return an ONNX graph with a changed node, attribute, shape or weight."""
    import onnx
    from onnx import TensorProto, helper

    if dice.random() < 0.25:
        return mutated_bytes(content, dice)
    model = onnx.load_from_string(content)
    graph = model.graph
    node = dice.choice(graph.node)
    tensor = dice.choice(graph.initializer) if graph.initializer else None
    what = dice.randrange(14)
    if what == 0:
        graph.node.remove(node)
    elif what == 1:
        node.op_type = dice.choice(("Conv", "Add", "Mul", "Foo", "Loop", "If", "QuantizeLinear", "Quant", ""))
    elif what == 2 and node.input:
        node.input[dice.randrange(len(node.input))] = dice.choice(("", "nowhere", node.output[0], graph.input[0].name))
    elif what == 3 and node.output:
        node.output[0] = dice.choice(("", graph.input[0].name, graph.node[0].output[0]))
    elif what == 4 and node.attribute:
        attribute = dice.choice(node.attribute)
        if attribute.ints:
            attribute.ints[:] = [dice.choice(_SIZES) for _ in attribute.ints]
        elif attribute.type == attribute.INT:
            attribute.i = dice.choice(_SIZES)
        elif attribute.type == attribute.FLOAT:
            attribute.f = dice.choice((float("nan"), float("inf"), -1.0, 1e30))
        else:
            attribute.s = b"\xff\x1b[31m"
    elif what == 5 and node.attribute:
        node.attribute.remove(dice.choice(node.attribute))
    elif what == 6 and tensor is not None:
        tensor.dims[:] = [dice.choice(_SIZES) for _ in range(dice.choice((0, 1, 4)))]
    elif what == 7 and tensor is not None:
        tensor.data_type = dice.choice((TensorProto.STRING, TensorProto.INT8, TensorProto.DOUBLE, 99))
    elif what == 8 and tensor is not None:
        tensor.data_location = TensorProto.EXTERNAL
        where = dice.choice(("../../../../etc/passwd", "/etc/passwd", "nowhere.bin", "a\u0000b"))
        length = dice.choice(("64", "99999999999999", "-1", "x"))
        for key, value in (("location", where), ("offset", "0"), ("length", length)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        tensor.ClearField("raw_data")
    elif what == 9 and tensor is not None and tensor.raw_data:
        tensor.raw_data = struct.pack("<f", dice.choice((float("nan"), float("inf"), 1e38))) * (
            len(tensor.raw_data) // 4
        )
    elif what == 10:
        dims = graph.input[0].type.tensor_type.shape.dim
        for dim in dims:
            dim.dim_value = dice.choice((0, 1, 3, 2**40))
    elif what == 11:
        graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    elif what == 12:
        model.opset_import[0].version = dice.choice((0, 1, 7, 99, 2**31))
    else:
        graph.node.append(
            helper.make_node("Identity", [graph.output[0].name], ["\u001b]0;owned\u0007"], name="\u001b[31m")
        )
        graph.output[0].name = "\u001b]0;owned\u0007"
    return model.SerializeToString()
