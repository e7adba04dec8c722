import pytest

from aws.account_flags import AccountDemands, account_demands, add_account_flags
from aws.entry_parser import EntryParser


def demands(*flags: str) -> AccountDemands:
    parser = EntryParser(None)
    add_account_flags(parser)
    return account_demands(parser.parse_args(flags))


def test_nothing_is_demanded_by_default() -> None:
    assert demands() == AccountDemands()
    assert demands().vpc_config is None
    assert demands().tag_list == []


def test_flags_become_what_requests_hold() -> None:
    found = demands(
        *("--tags", "team=bins", "url=https://a?b=c", "--subnets", "subnet-1", "subnet-2"),
        *("--security_group_ids", "sg-1", "--kms_key", "alias/out", "--volume_kms_key", "disk"),
    )
    assert found.tag_list == [
        {"Key": "team", "Value": "bins"},
        {"Key": "url", "Value": "https://a?b=c"},
    ]
    assert found.vpc_config == {
        "Subnets": ["subnet-1", "subnet-2"],
        "SecurityGroupIds": ["sg-1"],
    }
    assert (found.kms_key, found.volume_kms_key) == ("alias/out", "disk")


def test_half_a_network_is_refused() -> None:
    for flags in (["--subnets", "subnet-1"], ["--security_group_ids", "sg-1"]):
        with pytest.raises(ValueError, match="--subnets and --security_group_ids: AWS needs both"):
            demands(*flags)


def test_a_tag_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="--tags a=2: a is given twice"):
        demands("--tags", "a=1", "a=2")


@pytest.mark.parametrize("tag", ["team", "=bins"])
def test_a_tag_is_a_key_and_a_value(tag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demands("--tags", tag)
    assert f"argument --tags: invalid KEY=VALUE value: '{tag}'" in capsys.readouterr().err
