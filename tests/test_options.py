"""Options of CREATE MODEL: what they refuse, and with which words."""

import pytest

from dlsql import options

PRECISIONS = "TRUE, which is bfloat16, FALSE, which is float32, or one of bfloat16, float16, float32"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("transport", "bfloat", "Option `transport` is 'bfloat'; it takes one of float32, bfloat16, float16."),
        ("transport", 16, "Option `transport` is 16; it takes one of float32, bfloat16, float16."),
        ("mixed_precision", "half", f"Option `mixed_precision` is 'half'; it takes {PRECISIONS}."),
        ("mixed_precision", 1, f"Option `mixed_precision` is 1; it takes {PRECISIONS}."),
    ],
)
def test_a_value_that_an_option_does_not_take_is_named_with_what_it_takes(name: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError) as raised:
        options.read((("model_type", "dnn_regressor"), (name, value)))  # type: ignore[arg-type]
    assert str(raised.value) == f"[DLSQL_OPTION_VALUE] {expected} SQLSTATE: 22023"


@pytest.mark.parametrize(("value", "expected"), [(True, "bfloat16"), ("FALSE", "float32"), ("Float16", "float16"), (None, "float32")])
def test_mixed_precision_is_bfloat16_where_it_is_only_asked_for(value: object, expected: str) -> None:
    given = () if value is None else (("mixed_precision", value),)
    assert options.read((("model_type", "dnn_regressor"), *given)).mixed_precision == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("transport", "bfloat16"), ("mixed_precision", True)])
def test_what_workers_share_does_not_go_with_a_network_for_each_group(name: str, value: object) -> None:
    with pytest.raises(ValueError, match="it does not go with partition_cols"):
        options.read((("model_type", "dnn_regressor"), ("partition_cols", ["store"]), (name, value)))  # type: ignore[arg-type]
