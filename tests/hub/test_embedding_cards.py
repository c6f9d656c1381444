import pyarrow.parquet as pq
from datasets import load_dataset
from huggingface_hub import DatasetCard

from spectralgpt_hf.hub.embedding_cards import write_embedding_card
from spectralgpt_hf.inference.archive_run import write_summary
from tests.inference.test_vectors import write


def test_the_card_makes_a_folder_of_tables_a_data_set(tmp_path):
    for epsg in (32632, 32633):
        write(tmp_path / f"scene{epsg}.parquet", epsg)
    write_summary(tmp_path / "_summary.parquet", [])
    write_embedding_card(tmp_path, "spectralgpt-tiny", 24, "float32")
    data = load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert data.num_rows == 24
    assert len(data[0]["embedding"]) == 24
    assert set(data["utm_crs"]) == {"EPSG:32632", "EPSG:32633"}
    card = DatasetCard.load(tmp_path / "README.md")
    assert "embeddings" in card.data.tags
    for column in pq.read_schema(tmp_path / "scene32632.parquet").names:
        assert f"`{column}`" in card.text


def test_a_card_that_is_there_stays(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    write_embedding_card(tmp_path, "m", 24, "int8")
    assert (tmp_path / "README.md").read_text() == "mine"
