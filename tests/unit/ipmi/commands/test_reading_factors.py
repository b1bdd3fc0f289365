"""The conversion of raw bytes to numbers."""

from __future__ import annotations

import pytest

from bmcmedic.errors import LocalProtocolError
from bmcmedic.ipmi.commands.reading_factors import AnalogFormat, ReadingFactors, raw_number


@pytest.mark.parametrize(
    ("raw", "unsigned", "ones", "twos"),
    [(0x00, 0, 0, 0), (0x7F, 127, 127, 127), (0x80, 128, -127, -128), (0xFF, 255, 0, -1)],
)
def test_raw_numbers(raw: int, unsigned: int, ones: int, twos: int) -> None:
    assert raw_number(raw, AnalogFormat.UNSIGNED) == unsigned
    assert raw_number(raw, AnalogFormat.ONES_COMPLEMENT) == ones
    assert raw_number(raw, AnalogFormat.TWOS_COMPLEMENT) == twos


@pytest.mark.parametrize(
    ("factors", "raw", "value"),
    [
        (ReadingFactors(m=1), 43, 43.0),
        (ReadingFactors(m=100), 57, 5700.0),
        (ReadingFactors(m=6, r_exponent=-2), 202, 12.12),
        (ReadingFactors(m=1, b=-128), 150, 22.0),
        (ReadingFactors(m=2, b=5, b_exponent=1, r_exponent=-1), 25, 10.0),
        (ReadingFactors(m=1, r_exponent=2), 3, 300.0),
    ],
)
def test_linear_sensors(factors: ReadingFactors, raw: int, value: float) -> None:
    assert factors.convert(raw) == value


def test_a_negative_reading() -> None:
    assert ReadingFactors(m=1).convert(0xF6, AnalogFormat.TWOS_COMPLEMENT) == -10.0


@pytest.mark.parametrize(
    ("linearization", "raw", "value"),
    [
        (1, 1, 0.0),
        (2, 100, 2.0),
        (3, 8, 3.0),
        (4, 0, 1.0),
        (5, 2, 100.0),
        (6, 5, 32.0),
        (7, 4, 0.25),
        (8, 12, 144.0),
        (9, 3, 27.0),
        (10, 81, 9.0),
        (11, 27, 3.0),
    ],
)
def test_linearizations(linearization: int, raw: int, value: float) -> None:
    converted = ReadingFactors(m=1).convert(raw, linearization=linearization)
    assert converted == pytest.approx(value)


@pytest.mark.parametrize("linearization", [1, 2, 3, 7])
def test_there_is_no_logarithm_and_no_inverse_of_zero(linearization: int) -> None:
    assert ReadingFactors(m=1).convert(0, linearization=linearization) is None


def test_what_cannot_be_converted_is_none() -> None:
    assert ReadingFactors(m=1).convert(5, AnalogFormat.NONE) is None
    assert ReadingFactors(m=1).convert(5, linearization=0x70) is None
    assert ReadingFactors(m=511, r_exponent=7).convert(255, linearization=4) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("m", 512), ("m", -513), ("b", 512), ("r_exponent", 8), ("b_exponent", -9), ("tolerance", 64)],
)
def test_factors_that_do_not_fit(name: str, value: int) -> None:
    with pytest.raises(LocalProtocolError):
        ReadingFactors(**({"m": 1} | {name: value}))
