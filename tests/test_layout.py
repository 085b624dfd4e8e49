"""Expected values are written by hand from the specifications of zarr 2 and 3, as are the metadata documents."""

import copy
import json
import os
import warnings

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

from daskxent.numbers.reading import differences
from daskxent.sources.layout import address, layout, layout_digest
from daskxent.sources.opening import open_array

V3 = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [60, 40],
    "data_type": "float32",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10, 4]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": 0.0,
    "codecs": [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "zstd", "configuration": {"level": 3, "checksum": False}},
    ],
}
SHARDED = V3 | {
    "codecs": [
        {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [5, 2],
                "codecs": [
                    {"name": "transpose", "configuration": {"order": [1, 0]}},
                    {"name": "bytes", "configuration": {"endian": "big"}},
                    {
                        "name": "blosc",
                        "configuration": {
                            "cname": "lz4",
                            "clevel": 1,
                            "shuffle": "shuffle",
                            "typesize": 4,
                            "blocksize": 0,
                        },
                    },
                ],
                "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
                "index_location": "end",
            },
        }
    ]
}
V2 = {
    "zarr_format": 2,
    "shape": [60, 40],
    "dtype": ">f4",
    "chunks": [10, 4],
    "order": "F",
    "filters": [{"id": "delta", "dtype": ">f4", "astype": ">f4"}],
    "compressor": {"id": "zstd", "level": 3},
    "fill_value": "NaN",
    "dimension_separator": ".",
}

KNOWN_V3 = {
    "zarr_format": 3,
    "dtype": "float32",
    "chunks": [10, 4],
    "shards": None,
    "key": "c/0/1",
    "codecs": [{"name": "bytes", "endian": "little"}, {"name": "zstd"}],
    "fill_value": "0.0",
}
KNOWN_SHARDED = KNOWN_V3 | {
    "chunks": [5, 2],
    "shards": [10, 4],
    "codecs": [
        {
            "name": "sharding_indexed",
            "chunk_shape": [5, 2],
            "codecs": [
                {"name": "transpose", "order": [1, 0]},
                {"name": "bytes", "endian": "big"},
                {"name": "blosc"},
            ],
            "index_codecs": [{"name": "bytes", "endian": "little"}, {"name": "crc32c"}],
            "index_location": "end",
        }
    ],
}
KNOWN_V2 = {
    "zarr_format": 2,
    "dtype": ">f4",
    "chunks": [10, 4],
    "shards": None,
    "key": "0.1",
    "codecs": [
        {"name": "transpose", "order": None},
        {"name": "delta", "configuration": {"dtype": ">f4", "astype": ">f4"}},
        {"name": "bytes", "endian": "little"},
        {"name": "zstd"},
    ],
    "fill_value": "nan",
}
ALL = [(V3, KNOWN_V3), (SHARDED, KNOWN_SHARDED), (V2, KNOWN_V2)]
NAMES = ["v3", "sharded", "v2"]


def opened(tmp_path, document, attributes=None):
    """Open an array whose metadata somebody else has written."""
    tmp_path.mkdir(exist_ok=True)
    if document["zarr_format"] == 3:
        document = document | {"attributes": attributes or {}}
    else:
        (tmp_path / ".zattrs").write_text(json.dumps(attributes or {}))
    (tmp_path / ("zarr.json" if document["zarr_format"] == 3 else ".zarray")).write_text(json.dumps(document))
    return zarr.open_array(tmp_path, mode="r")


def changed(document, where, value):
    """Replace what the names `where` lead to; None removes it."""
    whole = copy.deepcopy(document)
    inside = whole
    for name in where[:-1]:
        inside = inside[name]
    if value is None:
        del inside[where[-1]]
    else:
        inside[where[-1]] = value
    return whole


@pytest.mark.parametrize(("document", "known"), ALL, ids=NAMES)
def test_the_same_stored_array_is_known_by_the_same_words(tmp_path, document, known):
    assert layout(opened(tmp_path, document)) == known


CONFIGURATION = ("codecs", 0, "configuration")
NO_MATTER = {
    "level": (V3, ("codecs", 1, "configuration", "level"), 22),
    "checksum": (V3, ("codecs", 1, "configuration", "checksum"), True),
    "names of dimensions": (V3, ("dimension_names",), ["row", "class"]),
    "no storage transformers": (V3, ("storage_transformers",), []),
    "the default separator": (V3, ("chunk_key_encoding",), {"name": "default"}),
    "an integer as fill value": (V3, ("fill_value",), 0),
    "where the index is by default": (SHARDED, (*CONFIGURATION, "index_location"), None),
    "how blosc shuffles": (SHARDED, (*CONFIGURATION, "codecs", 2, "configuration", "shuffle"), "bitshuffle"),
    "level in zarr 2": (V2, ("compressor", "level"), 22),
    "the default separator in zarr 2": (V2, ("dimension_separator",), None),
}


@pytest.mark.parametrize("change", NO_MATTER)
def test_what_does_not_change_a_number_makes_no_difference(tmp_path, change):
    document, where, value = NO_MATTER[change]
    before, after = opened(tmp_path / "a", document), opened(tmp_path / "b", changed(document, where, value), {"a": 1})
    assert layout(before) == layout(after)
    assert layout_digest(before) == layout_digest(after)


MATTERS = {
    "format": (V3, None, V2 | {"dtype": "<f4"}, "zarr_format"),
    "dtype": (V3, ("data_type",), "float64", "dtype"),
    "chunks": (V3, ("chunk_grid", "configuration", "chunk_shape"), [10, 5], "chunks"),
    "separator": (V3, ("chunk_key_encoding", "configuration", "separator"), ".", "key"),
    "keys": (V3, ("chunk_key_encoding",), {"name": "v2"}, "key"),
    "endian": (V3, (*CONFIGURATION, "endian"), "big", "codecs"),
    "another codec": (V3, ("codecs", 1), {"name": "gzip", "configuration": {"level": 3}}, "codecs"),
    "no codec": (V3, ("codecs", 1), None, "codecs"),
    "fill value": (V3, ("fill_value",), 1.0, "fill_value"),
    "shards": (SHARDED, ("chunk_grid", "configuration", "chunk_shape"), [20, 4], "shards"),
    "inner chunks": (SHARDED, (*CONFIGURATION, "chunk_shape"), [2, 2], "chunks"),
    "order of axes": (SHARDED, (*CONFIGURATION, "codecs", 0, "configuration", "order"), [0, 1], "codecs"),
    "endian in shards": (SHARDED, (*CONFIGURATION, "codecs", 1, "configuration", "endian"), "little", "codecs"),
    "index": (SHARDED, (*CONFIGURATION, "index_codecs", 1), None, "codecs"),
    "where the index is": (SHARDED, (*CONFIGURATION, "index_location"), "start", "codecs"),
    "byte order in zarr 2": (V2, ("dtype",), "<f4", "dtype"),
    "order in zarr 2": (V2, ("order",), "C", "codecs"),
    "filter in zarr 2": (V2, ("filters",), [{"id": "delta", "dtype": ">f4", "astype": ">f8"}], "codecs"),
    "separator in zarr 2": (V2, ("dimension_separator",), "/", "key"),
}


@pytest.mark.parametrize("change", MATTERS)
def test_what_may_change_a_number_is_noticed_by_name(tmp_path, change):
    document, where, value, named = MATTERS[change]
    before = opened(tmp_path / "a", document)
    after = opened(tmp_path / "b", value if where is None else changed(document, where, value))
    assert named in [name.partition("[")[0] for name, _, _ in differences(layout(before), layout(after))]
    assert layout_digest(before) != layout_digest(after)


def test_workers_notice_another_shape(tmp_path):
    before, after = (opened(tmp_path / str(n), V3 | {"shape": [n, 40]}) for n in (60, 70))
    assert layout(before) == layout(after)
    assert layout_digest(before) != layout_digest(after)


@pytest.mark.parametrize(("document", "known"), ALL, ids=NAMES)
def test_a_zarr_that_says_more_makes_no_difference(tmp_path, monkeypatch, document, known):
    """As if a later zarr added keys to its metadata and to the configurations of codecs, and had other defaults."""
    array = opened(tmp_path, document)
    later = type(array.metadata)

    def with_more(to_dict):
        def more(self):
            found = to_dict(self)
            # Some codecs have no configuration; others are given with all their defaults.
            return {**found, "configuration": {**found.get("configuration", {}), "window_log": None, "level": 7}}

        return more

    for codec in (ZstdCodec, BloscCodec):
        monkeypatch.setattr(codec, "to_dict", with_more(codec.to_dict))
    to_dict = later.to_dict
    monkeypatch.setattr(later, "to_dict", lambda self: {**to_dict(self), "storage_class": "new"})
    assert layout(array) == known


def test_types_without_a_specification_are_no_reason_to_warn(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = zarr.create_array(tmp_path, data=np.zeros((4, 2), "V2"), chunks=(2, 2))
    assert layout(array)["dtype"] == "void16"


def test_an_array_is_at_the_same_place_from_every_directory(tmp_path, monkeypatch):
    zarr.create_group(tmp_path / "dump.zarr").create_array("logits", shape=(3, 2), dtype="float32")
    monkeypatch.chdir(tmp_path)
    place = f"file://{tmp_path}/dump.zarr/logits"
    for given in ("dump.zarr/logits", f"{tmp_path}/dump.zarr/logits", f"file://{tmp_path}/dump.zarr/logits"):
        assert address(zarr.open_array(given, mode="r")) == place
    assert address(zarr.open_group("dump.zarr", mode="r")["logits"]) == place
    monkeypatch.chdir(os.sep)
    assert address(open_array(tmp_path / "dump.zarr" / "logits", "y_pred").array) == place


def test_an_array_behind_a_url_is_at_the_url():
    zarr.create_group("memory://dumps/a.zarr").create_array("logits", shape=(3, 2), dtype="float32")
    assert address(zarr.open_array("memory://dumps/a.zarr/logits")) == "memory:///dumps/a.zarr/logits"
    assert address(zarr.open_group("memory://dumps/a.zarr")["logits"]) == "memory:///dumps/a.zarr/logits"
