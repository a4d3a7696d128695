"""A run over a data set of the Hugging Face hub: its rows as a file of the lake, which is then the input."""

from r2.settings import AnswerSettings
from storage.lake.address import lake_folder
from storage.sources.hub import default_out, hub_questions, is_of_hub


def input_as_file(settings: AnswerSettings) -> AnswerSettings:
    """The settings with a file for their input; unchanged where it is one. ConfigError for a data set that cannot be
    had."""
    if not is_of_hub(settings.input):
        return settings
    out = settings.out or default_out(settings.input)
    path = hub_questions(settings.input, lake_folder(settings.lake))
    return settings.model_copy(update={"input": str(path), "out": out})
