"""What the documents show runs as it stands, and the lists that they hold are those of the code."""

import re
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from dlsql.options import OPTIONS
from docs.make import options_page

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/networks.md", "docs/groups.md")
BLOCKS = [
    (page, *block) for page in PAGES for block in re.findall(r"<!-- tested -->\n```(\w+)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
]


def statements(text: str) -> list[str]:
    return [one.strip() for one in re.sub(r"--[^\n]*", "", text).split(";") if one.strip()]


@pytest.mark.parametrize(
    ("page", "language", "text"), BLOCKS, ids=[f"{i}-{Path(page).stem}-{language}" for i, (page, language, _) in enumerate(BLOCKS)]
)
def test_what_a_page_shows_runs_as_it_stands(
    spark: SparkSession, database: str, page: str, language: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if language == "sql":
        for statement in statements(text):
            spark.sql(statement).collect()
        spark.sql("DROP DATABASE IF EXISTS sales CASCADE")
    else:
        exec(text, {"spark": spark})
        assert "+---" in capsys.readouterr().out


def test_the_page_of_options_is_made_from_the_table() -> None:
    page = (ROOT / "docs" / "options.md").read_text()
    assert page == options_page()
    assert all(f"`{option.name}`" in page for option in OPTIONS)
