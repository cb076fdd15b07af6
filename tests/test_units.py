"""Units: NumPy and torch alike, and what is refused with a remedy that exists."""

import importlib
import inspect
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepsentinel import units
from deepsentinel.errors import UnitsError

NAN = float("nan")
numbers = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20)


def reflectance(seed: int = 0, shape: tuple[int, ...] = (12, 16, 16)) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.01, 0.6, shape).astype(np.float32)


def backscatter(seed: int = 0, shape: tuple[int, ...] = (2, 16, 16)) -> np.ndarray:
    return np.random.default_rng(seed).normal(-13, 5, shape).astype(np.float32)


@pytest.mark.parametrize(
    "function",
    [
        units.power_to_db,
        units.db_to_power,
        units.s1_dn_to_db,
        lambda x: units.dn_to_reflectance(x, offset=-1000),
    ],
    ids=["power_to_db", "db_to_power", "s1_dn_to_db", "dn_to_reflectance"],
)
@given(numbers)
def test_numpy_and_torch_agree(function, values):
    values = [v / 100 if function is units.db_to_power else v for v in values]
    array = np.array(values, dtype=np.float32)
    from_numpy, from_torch = function(array), function(torch.from_numpy(array))
    assert from_numpy.dtype == np.float32
    assert isinstance(from_torch, torch.Tensor)
    assert from_torch.dtype == torch.float32
    np.testing.assert_allclose(from_torch.numpy(), from_numpy, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float64])
def test_no_data_is_nan_and_the_offset_is_added(dtype):
    dn = np.array([0, 1, 50, 100], dtype=dtype)
    found = units.dn_to_reflectance(dn, offset=-1000)
    np.testing.assert_allclose(found, [NAN, -0.0999, -0.095, -0.09], atol=1e-6)
    np.testing.assert_allclose(
        units.dn_to_reflectance(torch.from_numpy(dn.astype(np.int32)), offset=0),
        [NAN, 0.0001, 0.005, 0.01],
        atol=1e-6,
    )


def test_large_unsigned_numbers_do_not_wrap():
    dn = np.array([65535, 999], dtype=np.uint16)
    np.testing.assert_allclose(units.dn_to_reflectance(dn, offset=-1000), [6.4535, -0.0001], 1e-4)
    np.testing.assert_allclose(units.s1_dn_to_db(dn[:1]), 20 * np.log10(65535) - 83, rtol=1e-5)


@given(st.lists(st.floats(-60, 40), min_size=1, max_size=20))
def test_decibels_there_and_back(values):
    db = np.array(values)
    np.testing.assert_allclose(units.power_to_db(units.db_to_power(db)), db, atol=1e-3)


def test_power_that_is_not_positive_is_not_observed():
    found = units.power_to_db(np.array([-1.0, 0.0, NAN, 10.0]))
    np.testing.assert_array_equal(np.isnan(found), [True, True, True, False])
    assert found[3] == 10


def test_amplitude_that_is_not_positive_is_not_observed():
    """-9999 squared would be a bright target."""
    found = units.s1_dn_to_db(np.array([-9999, 0, 1000]))
    np.testing.assert_allclose(found, [NAN, NAN, -23.0], rtol=1e-5)


def test_power_keeps_gradients():
    power = torch.tensor([0.5, 0.0], requires_grad=True)
    units.power_to_db(power).nansum().backward()
    assert power.grad is not None
    assert power.grad.isfinite().all()


@pytest.mark.parametrize("wrap", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_plausible_values_pass(wrap):
    holes = reflectance()
    holes[3] = NAN
    holes[0, 0, 0], holes[0, 0, 1] = np.inf, -np.inf
    nothing = np.full((12, 16, 16), NAN, np.float32)
    for values in (reflectance(), holes, nothing, reflectance(shape=(3, 12, 8, 8))):
        units.check_reflectance(wrap(values))
    radar = backscatter()
    radar[:, :4] = NAN
    radar[1, 8, 8] = -np.inf
    for values in (backscatter(), radar, nothing[:2], backscatter(shape=(3, 2, 8, 8))):
        units.check_db(wrap(values))
    for check in (units.check_reflectance, units.check_db):
        check(wrap(np.zeros((0, 2, 8, 8), np.float32)))


def test_low_precision_is_judged_too():
    units.check_db(torch.from_numpy(backscatter()).bfloat16())
    with pytest.raises(UnitsError):
        units.check_reflectance(torch.from_numpy(1e4 * reflectance()).bfloat16())


REFLECTANCE_CASES = {
    "digital numbers": (10_000 * reflectance(), "digital numbers", "dn_to_reflectance"),
    "with offset taken off": (
        10_000 * reflectance() - 1000,
        "digital numbers",
        "dn_to_reflectance",
    ),
    "8-bit": (np.round(255 * reflectance()), "8-bit", "s2_range"),
    "z-scores": ((reflectance() - 0.3) / 0.17, "normalised", "statistics"),
    "no-data": (np.where(reflectance() > 0.5, -9999, reflectance()), "no data", "NaN"),
}


@pytest.mark.parametrize("case", REFLECTANCE_CASES)
@pytest.mark.parametrize("wrap", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_what_is_no_reflectance_is_refused_with_the_remedy(case, wrap):
    values, words, remedy = REFLECTANCE_CASES[case]
    values = np.concatenate([values, np.full_like(values, NAN)])
    with pytest.raises(UnitsError) as caught:
        units.check_reflectance(wrap(values), name="optical")
    message = str(caught.value)
    finite = values[np.isfinite(values)]
    assert f"optical holds values from {finite.min():.4g} to {finite.max():.4g}" in message
    assert words in message
    assert remedy in message
    assert_calls_exist(message)


DB_CASES = {
    "linear power": (10 ** (backscatter() / 10), "power_to_db"),
    "zeros for no data": (np.zeros((2, 16, 16), np.float32), "make them NaN"),
    "8-bit": (np.abs(np.round(5 * backscatter())) + 60, "s1_range"),
    "16-bit amplitude": (np.full((2, 16, 16), 4000.0, np.float32), "s1_dn_to_db"),
    "no-data": (np.where(backscatter() < -20, -9999, backscatter()), "no-data must be NaN"),
}


@pytest.mark.parametrize("case", DB_CASES)
@pytest.mark.parametrize("wrap", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_what_is_no_decibel_is_refused_with_the_remedy(case, wrap):
    values, remedy = DB_CASES[case]
    with pytest.raises(UnitsError) as caught:
        units.check_db(wrap(values.astype(np.float32)), name="radar")
    message = str(caught.value)
    assert "radar holds values from" in message
    assert "in dB" in message
    assert remedy in message
    assert_calls_exist(message)


def assert_calls_exist(message: str) -> None:
    """Every call that a message names exists, with the arguments it names."""
    calls = re.findall(r"(deepsentinel(?:\.\w+)+)\(([^)]*)", message)
    for path, arguments in calls:
        room, name = path.rsplit(".", 1)
        function = getattr(importlib.import_module(room), name)
        for keyword in re.findall(r"(\w+)=", arguments):
            assert keyword in inspect.signature(function).parameters


def test_one_patch_of_linear_power_in_a_batch_is_named():
    batch = backscatter(shape=(3, 2, 16, 16))
    batch[1] = 10 ** (batch[1] / 10)
    with pytest.raises(UnitsError, match=r"s1\[1\] holds"):
        units.check_db(torch.from_numpy(batch))


@pytest.mark.parametrize(
    ("value", "sound"),
    [(-0.2, True), (-0.21, False), (7.0, True), (7.01, False)],
)
def test_limits_of_reflectance(value, sound):
    values = np.full((1, 8, 8), 0.1, np.float64)
    values[0, 0, 0] = value
    if sound:
        units.check_reflectance(values)
    else:
        with pytest.raises(UnitsError):
            units.check_reflectance(values)


@pytest.mark.parametrize(
    ("value", "sound"),
    [(-100.0, True), (-100.1, False), (50.0, True), (50.1, False)],
)
def test_limits_of_decibels(value, sound):
    values = np.full((1, 8, 8), -10.0)
    values[0, 0, 0] = value
    if sound:
        units.check_db(values)
    else:
        with pytest.raises(UnitsError):
            units.check_db(values)


def test_too_few_values_are_not_judged_by_their_distribution():
    few = np.full((1, 16, 16), NAN)
    few[0, 0, : units.MIN_JUDGED // 8] = 3.0
    units.check_db(few)
    assert not units.looks_offset(np.where(np.isnan(few), NAN, 0.3))


def test_every_code_of_a_corpus_is_plausible():
    """What a corpus can hold passes the check of the encoder."""
    from deepsentinel.corpus.codes import encode_s2_reflectance
    from deepsentinel.corpus.decode import to_physical

    codes = encode_s2_reflectance(np.array([[-5.0, -0.1, 0.0, 6.4535, 99.0]], np.float32))
    values = np.empty(codes.shape, np.float32)
    to_physical("s2", codes, values)
    units.check_reflectance(values)


def test_an_offset_is_suspected_by_the_darkest_pixels_only():
    patch = reflectance(shape=(3, 32, 32))
    assert not units.looks_offset(patch)
    assert units.looks_offset(patch + 0.1)
    assert units.looks_offset(torch.from_numpy(patch + 0.1))
    assert not units.looks_offset(np.full((3, 32, 32), NAN))
