"""Lists of matrix products in CSV: what is read, and each fault with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sim.dnn.gemm_file import read_gemms
from sim.dnn.gemms import Dnn


def _read(folder: Path, text: str | bytes, batch: int = 1) -> Dnn:
    file = folder / "net.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_gemms(file, batch=batch)[0]


def test_three_columns_are_a_chain(tmp_path: Path) -> None:
    dnn = _read(tmp_path, "m,n,k\n4,5,6\n7,8,9\n")
    assert [
        (each.name, each.m, each.n, each.k, each.after, each.raw_input) for each in dnn.layers
    ] == [
        ("gemm1", 4, 5, 6, (), True),
        ("gemm2", 7, 8, 9, ("gemm1",), False),
    ]
    assert read_gemms(tmp_path / "net.csv")[1] == (
        "the file has no column `after`: each product waits for the one before",
    )


def test_every_column(tmp_path: Path) -> None:
    dnn = _read(
        tmp_path,
        'k,n,m,name,after,kernel_area,raw_input\r\n64,27,9,conv,,9,true\r\n\r\n8,64,9,"a, '
        'b",conv,1,\r\n'
        "8,64,9,c,conv,1,no\r\n2,8,1,end,c  conv,1,false\r\n",
        batch=3,
    )
    conv, _, _, end = dnn.layers
    assert (conv.m, conv.n, conv.k, conv.kernel_area, conv.raw_input) == (27, 27, 64, 9, True)
    assert [each.name for each in dnn.layers] == ["conv", "a, b", "c", "end"]
    assert end.after == ("c", "conv")
    assert dnn.macs == 3 * (9 * 27 * 64 + 9 * 64 * 8 * 2 + 16)


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    assert _read(tmp_path, b"\xef\xbb\xbfm,n,k\n1,2,3\n").macs == 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("m,n,k\n", "no product below the header"),
        ("m,n\n1,2\n", "line 1: the column 'k' is missing"),
        ("m,n,k,m\n1,2,3,4\n", "line 1: the column 'm' is there twice"),
        ("m,n,k,afte\n1,2,3,\n", "line 1: no column 'afte' is known; nearest is 'after'"),
        ("m,n,k\n1,2\n", "line 2: 2 cells, the header has 3"),
        ("m,n,k\n1,2,3\n1,0,3\n", "line 3: n is 0; a layer has a size of at least 1"),
        ("m,n,k\n1,2,-3\n", "line 2: k is '-3', not a whole number"),
        ("m,n,k\n1,2,3.5\n", "line 2: k is '3.5', not a whole number"),
        (
            "m,n,k\n1,2,99999999999999\n",
            "line 2: k is 99999999999999; a size is at most 1,099,511,627,776",
        ),
        ("m,n,k,name\n1,2,3,a\n1,2,3,a\n", "line 3: the name 'a' is that of line 2"),
        (
            "m,n,k,name,after\n1,2,3,conv1,\n1,2,3,b,conv2\n",
            "line 3: no product 'conv2' above this line; nearest is 'conv1'",
        ),
        ("m,n,k,name,after\n1,2,3,a,b\n1,2,3,b,a\n", "line 2: no product 'b' above this line"),
        ("m,n,k,raw_input\n1,2,3,perhaps\n", "line 2: raw_input is 'perhaps'"),
        (
            "m,n,k,kernel_area\n1,2,3,9\n",
            "line 2: a kernel of 9 elements is more than n, which is 2",
        ),
        ('m,n,k\n1,2,"3\n', "unexpected end of data"),
    ],
)
def test_faults(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        _read(tmp_path, text)


def test_all_faults_at_once_and_no_more_than_ten(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 2") as caught:
        _read(tmp_path, "m,n,k\n" + "0,0,1\n" * 10)
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "and 10 more"


def test_not_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 2: byte 0xff is not UTF-8"):
        _read(tmp_path, b"m,n,k\n\xff\xfe\n")
