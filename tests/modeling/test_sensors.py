from datetime import date

import pytest

from spectralgpt_hf import Band, Sensor
from spectralgpt_hf.modeling.bands import SENTINEL_2
from spectralgpt_hf.modeling.sensors import SENSORS, get_sensor, model_sensor


@pytest.mark.parametrize("sensor", SENSORS.values(), ids=str)
def test_every_band_of_a_table_has_a_wavelength_and_a_width_in_nm_and_a_resolution_in_metres(sensor):
    for band in sensor.bands:
        assert 400 < band.wavelength < 2500
        assert 5 < band.width < 300
        assert 3 <= band.resolution <= 500


@pytest.mark.parametrize("sensor", SENSORS.values(), ids=str)
def test_no_two_bands_of_a_sensor_share_a_name(sensor):
    for band in sensor.bands:
        for name in (band.name, *band.aliases):
            assert sensor.resolve(name) == band.name


@pytest.mark.parametrize("sensor", SENSORS.values(), ids=str)
def test_a_day_of_launch_is_a_date_since_the_first_landsat(sensor):
    assert sensor.launch == "" or date(1972, 7, 23) < date.fromisoformat(sensor.launch) < date.today()


def test_the_same_name_is_another_wavelength_on_another_sensor():
    centres = {name: SENSORS[name].band("B5").wavelength for name in ("sentinel-2", "landsat-8", "landsat-7", "modis")}
    assert centres == {"sentinel-2": 704.1, "landsat-8": 864.7, "landsat-7": 1650.3, "modis": 1240.0}


def test_landsat_collection_2_has_its_own_scale():
    assert (SENSORS["landsat-8"].scale, SENSORS["landsat-8"].offset) == (2.75e-5, -0.2)


@pytest.mark.parametrize(("name", "found"), [("Landsat 9", "landsat-8"), ("HLS_S30", "hls-s30"), ("modis", "modis")])
def test_a_sensor_goes_by_its_usual_names(name, found):
    assert get_sensor(name).name == found


def test_an_unknown_sensor_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"Unknown sensor 'landsat-10': expected one of sentinel-2, landsat-8, .*Sensor"
    ):
        get_sensor("landsat-10")


def test_a_sensor_of_ones_own_takes_three_lines():
    drone = Sensor("drone", (Band("green", 560, 32), Band("red", 668, 14), Band("nir", 842, 57)))
    assert get_sensor(drone) is drone
    assert drone.resolve_all(["NIR", "Green"]) == ("nir", "green")
    assert drone.wavelengths(["nir", "mean"]) == [842, None]


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ((Band("red", 660), Band("Red", 665)), "another name for each band, found several called red"),
        ((Band("red", -1.0),), "a wavelength of red in nm, found -1.0"),
    ],
)
def test_a_sensor_that_contradicts_itself_is_refused(bands, message):
    with pytest.raises(ValueError, match=message):
        Sensor("drone", bands)


def test_the_sensor_of_a_model_comes_from_the_table_from_wavelengths_or_from_names():
    assert model_sensor("sentinel-2", ["B4"]) is SENTINEL_2
    assert model_sensor("landsat-8", ["B4", "mean"]).band_names == ("B4",)
    assert model_sensor("landsat-8", ["B4"]).band("B4").wavelength == 654.6
    assert model_sensor("drone", ["red", "nir"], [668, 842]).wavelengths(["nir", "red"]) == [842, 668]
    assert model_sensor("aviris", ["450.5nm", "460nm"]).wavelengths(["450.5nm"]) == [450.5]
