"""Which bands the page shows as red, green and blue, for every kind of sensor."""

from spectralgpt_hf.modeling.bands import BANDS, L2A_BANDS, Band, Sensor
from spectralgpt_hf.modeling.sensors import LANDSAT_8, MODIS, PLANETSCOPE_4, model_sensor
from spectralgpt_hf.serving.composites import COMPOSITES, WHOLE_SPECTRUM, find_composites, labelled
from tests.serving.other_sensors import SPECTROMETER


def test_an_image_of_sentinel_2_has_the_composites_whose_bands_it_holds():
    assert find_composites(L2A_BANDS) == COMPOSITES
    assert list(find_composites(["B2", "B3", "B4", "B8"])) == ["True colour", "False colour: vegetation red"]


def test_other_sensors_show_their_own_bands_of_the_same_wavelengths():
    landsat = find_composites(LANDSAT_8.band_names, LANDSAT_8)
    assert landsat["True colour"] == ("B4", "B3", "B2")
    assert landsat["Moisture"] == ("B5", "B6", "B7")
    assert "Red edge" not in landsat
    assert find_composites(MODIS.band_names, MODIS)["True colour"] == ("B1", "B4", "B3")
    assert find_composites(PLANETSCOPE_4.band_names, PLANETSCOPE_4)["True colour"] == ("red", "green", "blue")


def test_the_nearest_bands_of_a_spectrometer_are_shown_and_named():
    sensor = model_sensor(SPECTROMETER["sensor"], SPECTROMETER["bands"])
    channels = find_composites(SPECTROMETER["bands"], sensor)["True colour"]
    assert [round(sensor.band(name).wavelength) for name in channels] == [660, 560, 489]
    assert labelled({"True colour": channels}) == [(f"True colour ({', '.join(channels)})", "True colour")]


def test_a_sensor_without_visible_bands_is_shown_across_its_spectrum():
    infrared = Sensor("infrared", tuple(Band(f"b{k}", 900 + 300 * k) for k in range(5)))
    assert find_composites(["b0", "b4", "b2", "b1"], infrared) == {WHOLE_SPECTRUM: ("b4", "b2", "b0")}
    assert find_composites(["b1"], infrared) == {WHOLE_SPECTRUM: ("b1", "b1", "b1")}


def test_the_composites_are_made_of_bands_of_sentinel_2():
    assert {band for channels in COMPOSITES.values() for band in channels} <= set(BANDS)
