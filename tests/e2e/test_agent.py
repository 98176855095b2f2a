"""An agent framework drives the whole loop: it offers tools, runs the calls, asks again."""

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, RunContext, ToolOutput
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from tests.e2e.server import ServerProcess

pytestmark = pytest.mark.e2e

MODELS = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}
QUESTION = "Is it warm in Oslo? Call get_weather first."


class Forecast(BaseModel):
    """The final answer."""

    is_warm: bool


@pytest.fixture(params=MODELS)
async def model(server: ServerProcess, request: pytest.FixtureRequest) -> AsyncIterator[Model]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
        yield MODELS[request.param]("tgi", provider=OpenAIProvider(openai_client=client))


def agent_of(model: Model) -> tuple[Agent[None, Forecast], list[str]]:
    """Every turn must call something (the framework asks with `required`): the tool, which is
    offered until it was called, or what gives the final answer."""
    settings = ModelSettings(temperature=0, max_tokens=96, parallel_tool_calls=False)
    agent = Agent(model, output_type=ToolOutput(Forecast), model_settings=settings, retries=2)
    asked: list[str] = []

    async def until_asked(context: RunContext, tool: ToolDefinition) -> ToolDefinition | None:
        return None if asked else tool

    @agent.tool_plain(prepare=until_asked)
    def get_weather(city: str) -> str:
        """The weather in a city now."""
        asked.append(city)
        return "Rain, 7 degrees"

    return agent, asked


async def test_a_loop_of_calls_ends_in_an_answer(model: Model) -> None:
    agent, asked = agent_of(model)
    result = await agent.run(QUESTION)
    assert isinstance(result.output, Forecast)
    assert len(asked) == 1 and result.usage.requests == 2
    assert result.usage.input_tokens > result.usage.output_tokens > 0


async def test_the_same_streamed(model: Model) -> None:
    whole = await agent_of(model)[0].run(QUESTION)
    agent, asked = agent_of(model)
    async with agent.run_stream(QUESTION) as stream:
        output = await stream.get_output()
    assert output == whole.output and len(asked) == 1
