import pytest

from spectralgpt_hf.modeling.bands import (
    BANDS,
    BANDS_10M_20M,
    BIGEARTHNET_BANDS,
    EUROSAT_FILE_BANDS,
    L1C_BANDS,
    L2A_BANDS,
    SEGMUNICH_BANDS,
    SENTINEL_2,
    bands_from_count,
    find_band,
    resolve_bands,
)


@pytest.mark.parametrize(
    ("name", "band"),
    [
        ("B1", "B1"),
        ("b01", "B1"),
        ("coastal", "B1"),
        ("Coastal Aerosol", "B1"),
        ("BLUE", "B2"),
        ("Band 4", "B4"),
        ("band_11", "B11"),
        ("red-edge-1", "B5"),
        ("rededge3", "B7"),
        ("nir", "B8"),
        ("B8a", "B8A"),
        ("B08A", "B8A"),
        ("nir_narrow", "B8A"),
        ("nir08", "B8A"),
        ("nir09", "B9"),
        ("cirrus", "B10"),
        ("swir16", "B11"),
        ("SWIR 2", "B12"),
    ],
)
def test_a_band_goes_by_any_of_its_usual_names(name, band):
    assert SENTINEL_2.resolve(name) == band


@pytest.mark.parametrize(
    ("typo", "suggestion"),
    [("blu", "'B2' (blue)"), ("nir_narow", "'B8A' (nir_narrow)"), ("cirus", "'B10' (cirrus)"), ("swir22a", "'B12'")],
)
def test_a_typo_is_refused_with_the_nearest_name(typo, suggestion):
    with pytest.raises(ValueError, match=f"Unknown band '{typo}'") as error:
        SENTINEL_2.resolve(typo)
    assert f"Did you mean {suggestion}" in str(error.value)


@pytest.mark.parametrize("name", ["B13", "B0", "B8B", "SCL", "", 4, None, "rededge"])
def test_what_is_no_band_is_refused(name):
    with pytest.raises(ValueError, match="Unknown band"):
        SENTINEL_2.resolve(name)


def test_a_band_may_occur_once_whatever_its_names():
    with pytest.raises(ValueError, match="B2 occurs more often"):
        resolve_bands(["B2", "red", "blue"])


def test_a_single_string_is_no_list_of_bands():
    with pytest.raises(ValueError, match="Expected a list of band names"):
        resolve_bands("B2")


def test_the_pseudo_band_mean_may_repeat_where_it_is_allowed():
    assert resolve_bands(["red", "mean", "Mean"], allow_mean=True) == ("B4", "mean", "mean")
    with pytest.raises(ValueError, match="Unknown band 'mean'"):
        resolve_bands(["red", "mean"])


def test_layouts_hold_the_bands_that_their_files_hold():
    assert ",".join(L1C_BANDS) == "B1,B2,B3,B4,B5,B6,B7,B8,B8A,B9,B10,B11,B12"
    assert ",".join(L2A_BANDS) == ",".join(BIGEARTHNET_BANDS) == "B1,B2,B3,B4,B5,B6,B7,B8,B8A,B9,B11,B12"
    assert ",".join(EUROSAT_FILE_BANDS) == "B1,B2,B3,B4,B5,B6,B7,B8,B9,B10,B11,B12,B8A"
    assert ",".join(SEGMUNICH_BANDS) == ",".join(BANDS_10M_20M) == "B2,B3,B4,B5,B6,B7,B8,B8A,B11,B12"


def test_wavelengths_rise_in_product_order_and_the_satellites_agree():
    for attribute in ("wavelength_s2a", "wavelength_s2b"):
        wavelengths = [getattr(band, attribute) for band in BANDS.values()]
        assert wavelengths == sorted(wavelengths)
    assert all(abs(band.wavelength_s2a - band.wavelength_s2b) < 20 for band in BANDS.values())


def test_no_two_bands_share_a_name():
    names = [name for band in BANDS.values() for name in (band.name, *band.aliases)]
    assert [SENTINEL_2.resolve(name) for name in names] == [
        band.name for band in BANDS.values() for _ in (band.name, *band.aliases)
    ]


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("S2A_MSIL2A_20170613T101031_87_48_B8A", "B8A"),
        ("T33UUU_20170216T102101_B02_10m", "B2"),
        ("B8A, narrow NIR", "B8A"),
        ("Band 9", None),
        ("band_02", None),
        ("B11 - SWIR", "B11"),
        ("red", "B4"),
        ("SCL", None),
        ("B13", None),
        ("sub10", None),
        ("", None),
    ],
)
def test_a_band_is_found_in_descriptions_and_file_names(text, band):
    assert find_band(text) == band


def test_the_number_of_bands_tells_only_the_usual_layouts():
    assert bands_from_count(13) == L1C_BANDS
    assert bands_from_count(12) == L2A_BANDS
    assert bands_from_count(10) == SEGMUNICH_BANDS
    assert [bands_from_count(count) for count in (1, 3, 4, 11, 14, 300)] == [None] * 6
