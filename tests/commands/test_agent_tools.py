"""The tools for agents, called by a client of the Model Context Protocol."""

import asyncio
import sys

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from spectralgpt_hf.assets import SAMPLE
from spectralgpt_hf.commands.agent_tools import TOOLS, build_server
from tests.inference.scenes import classifier, encoder, processor, write_scene


@pytest.fixture
def folder(tmp_path):
    for name, model in (("classifier", classifier()), ("encoder", encoder())):
        model.save_pretrained(tmp_path / name)
        processor().save_pretrained(tmp_path / name)
    write_scene(tmp_path / "scene.tif")
    return tmp_path


def call(tool, **arguments):
    """Return the structured answer of a tool, or the text of its error."""

    async def run():
        async with Client(build_server()) as client:
            result = await client.call_tool(tool, arguments)
            return result.content[0].text if result.is_error else result.structured_content

    return asyncio.run(run())


def test_the_tools_are_listed_with_types_and_descriptions():
    async def run():
        async with Client(build_server()) as client:
            return (await client.list_tools()).tools

    tools = {tool.name: tool for tool in asyncio.run(run())}
    assert list(tools) == [tool.__name__ for tool in TOOLS]
    assert "Args:" in tools["map_scene"].description
    for tool in tools.values():
        properties = tool.input_schema["properties"]
        assert all("type" in schema or "anyOf" in schema for schema in properties.values())
        assert all(f"{name}: " in tool.description for name in properties)
    assert tools["map_scene"].input_schema["required"] == ["checkpoint", "source", "destination"]


def test_a_scene_is_described_mapped_and_embedded(folder):
    scene, checkpoint = str(folder / "scene.tif"), str(folder / "classifier")
    described = call("describe_scene", source=scene)
    assert (described["height"], described["width"]) == (75, 90)
    assert described["band_names"][:2] == ["B1", "B2"]
    assert call("describe_model", checkpoint=checkpoint)["classes"]["0"] == "class 0"
    found = call("map_scene", checkpoint=checkpoint, source=scene, destination=str(folder / "map.tif"))
    assert found["map"] == str(folder / "map.tif")
    assert sum(found["shares"].values()) == pytest.approx(1)
    table = str(folder / "chips.parquet")
    assert call("embed", checkpoint=str(folder / "encoder"), source=scene, destination=table)["embeddings"] == table


def test_files_are_not_replaced_and_mistakes_are_answered(folder):
    destination = folder / "map.tif"
    destination.write_text("mine")
    arguments = {"checkpoint": str(folder / "classifier"), "source": str(folder / "scene.tif")}
    assert "exists" in call("map_scene", destination=str(destination), **arguments)
    assert destination.read_text() == "mine"
    assert "missing.tif" in call("describe_scene", source=str(folder / "missing.tif"))
    assert "no such folder" in call("embed", destination="/missing/x.tif", **arguments)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pystac_client", None)
    found = call("find_scenes", stac="http://x", collection="c", region=[0, 0, 1, 1])
    assert "pip install spectralgpt-hf[stac]" in found


def test_clouds_that_an_item_does_not_state_are_null(monkeypatch):
    item = {"id": "a", "properties": {"datetime": "2024-07-01T10:00:00Z"}}
    monkeypatch.setattr("spectralgpt_hf.commands.agent_tools.search_items", lambda *_, **__: [item])
    (found,) = call("find_scenes", stac="http://x", collection="c", region=[0, 0, 1, 1])["result"]
    assert found["cloud_cover"] is None


@pytest.mark.slow  # a process of its own
def test_an_agent_starts_the_command_and_finds_similar_sites(folder):
    command = ["-c", "from spectralgpt_cli import app; app()", "mcp"]
    table = str(folder / "chips.parquet")
    with_sites = call("embed", checkpoint=str(folder / "encoder"), source=str(SAMPLE), destination=table)
    assert with_sites["warnings"] == []

    async def run():
        async with Client(StdioServerParameters(command=sys.executable, args=command)) as client:
            site = {"longitude": -75.64, "latitude": 37.66}
            return await client.call_tool("find_similar_sites", {"embeddings": table, "top": 3, **site})

    found = asyncio.run(run()).structured_content["result"]
    assert len(found) == 3
    assert found[0]["similarity"] >= found[1]["similarity"] >= found[2]["similarity"]
