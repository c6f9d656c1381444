"""The command that serves agents."""

from .app import app


@app.command()
def mcp() -> None:
    """Serve tools for agents by the Model Context Protocol, on standard input and output. Agents start this command.

    The tools map, embed, describe and find scenes, with your own rights; they never replace a file. Needs
    the extra `mcp`.
    """
    from spectralgpt_hf.commands.agent_tools import build_server

    build_server().run("stdio")
