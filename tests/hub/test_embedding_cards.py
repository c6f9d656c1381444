import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard

from spectralgpt_hf.hub.embedding_cards import write_embedding_card
from spectralgpt_hf.inference.archive_run import write_summary
from spectralgpt_hf.modeling.bands import SENTINEL_2
from spectralgpt_hf.modeling.sensors import get_sensor
from tests.inference.test_vectors import write


def test_the_card_makes_a_folder_of_tables_a_data_set(tmp_path):
    for epsg in (32632, 32633):
        write(tmp_path / f"scene{epsg}.parquet", epsg)
    write_summary(tmp_path / "_summary.parquet", [])
    write_embedding_card(tmp_path, "spectralgpt-tiny", SENTINEL_2, 24, "float32")
    data = load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert data.num_rows == 24
    assert len(data[0]["embedding"]) == 24
    assert set(data["utm_crs"]) == {"EPSG:32632", "EPSG:32633"}
    card = DatasetCard.load(tmp_path / "README.md")
    assert "embeddings" in card.data.tags
    for column in pq.read_schema(tmp_path / "scene32632.parquet").names:
        assert f"`{column}`" in card.text


def test_a_renewed_card_keeps_what_its_author_wrote(tmp_path):
    write_embedding_card(tmp_path, "old", SENTINEL_2, 24, "int8")
    path = tmp_path / "README.md"
    text = path.read_text()
    assert "Copernicus" in text
    own = text.replace("- embeddings\n", "- embeddings\n- alps\nlicense: cc-by-4.0\n").replace("State here", "Forests.")
    path.write_text(own)
    write_embedding_card(tmp_path, "new", get_sensor("landsat-8"), 32, "float16")
    card = DatasetCard.load(path)
    assert (card.data.pretty_name, card.data.license) == ("Embeddings of Landsat 8/9 OLI by new", "cc-by-4.0")
    assert card.data.tags == ["geospatial", "earth-observation", "landsat-8", "embeddings", "alps"]
    assert "vectors of 32 numbers (float16), made by\n`new`" in card.text
    assert card.text.endswith("## Provenance and licence\n\nForests." + own.partition("Forests.")[2])
    for word in ("`old`", "Sentinel", "Copernicus", "embedding_scale"):
        assert word not in path.read_text()


@pytest.mark.parametrize("text", ["mine", "---\ntags: [\n---\n## Provenance and licence\n"])
def test_a_card_of_someones_own_stays(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    write_embedding_card(tmp_path, "m", SENTINEL_2, 24, "int8")
    assert (tmp_path / "README.md").read_text() == text
