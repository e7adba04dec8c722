import base64
import json
from typing import Any

import pytest

from serving.bin_requests import (
    MAX_INSTANCES,
    Photo,
    PhotoSources,
    Previous,
    Question,
    photo_bytes,
    photos_of,
    read_request,
)
from serving.request_errors import RequestError

PHOTO = b"\xff\xd8\xff bytes"
TEXT = base64.b64encode(PHOTO).decode()


def status_of(body: Any, content_type: str | None = "application/json") -> int:
    with pytest.raises(RequestError) as raised:
        read_request(body, content_type)
    return raised.value.status


@pytest.mark.parametrize(
    "content_type", ["image/jpeg", "image/jpg", "image/pjpeg", "image/png", "application/x-image"]
)
def test_a_photo_is_the_body_itself(content_type: str) -> None:
    assert read_request(PHOTO, content_type) == ([Question("body", PHOTO)], False)
    assert read_request(bytearray(PHOTO), f"{content_type.upper()}; q=1")[0][0].value == PHOTO


@pytest.mark.parametrize("source", ["image", "s3_key", "url"])
def test_json_names_one_source_and_perhaps_a_quantity(source: str) -> None:
    body = json.dumps({source: "abc", "expected_quantity": 3})
    expected = ([Question(source, "abc", 3)], False)
    assert read_request(body, "application/json") == expected
    assert read_request(body.encode(), "Application/JSON; charset=utf-8") == expected


def test_instances_keep_their_order() -> None:
    body = json.dumps({"instances": [{"image": "a"}, {"url": "b", "expected_quantity": 0}]})
    assert read_request(body, "application/json") == (
        [Question("image", "a"), Question("url", "b", 0)],
        True,
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Previous("s3_key", "b")),
        ({"count": 4}, Previous("s3_key", "b", count=4)),
        ({"expected_quantity": 0}, Previous("s3_key", "b", expected_quantity=0)),
        ({"count": None, "expected_quantity": 3}, Previous("s3_key", "b", expected_quantity=3)),
    ],
)
@pytest.mark.parametrize("rate", [None, 0, 0.25, 1])
def test_a_question_may_bring_the_visit_before(
    given: dict[str, Any], expected: Previous, rate: float | None
) -> None:
    content = {"image": "a", "expected_quantity": 2, "previous": {"s3_key": "b", **given}}
    content |= {} if rate is None else {"unchanged_rate": rate}
    [question], is_list = read_request(json.dumps(content), "application/json")
    assert (question, is_list) == (Question("image", "a", 2, expected, rate), False)
    assert photos_of([question, Question("url", "c")]) == [
        *(question, expected),
        Question("url", "c"),
    ]


def test_fields_that_are_null_are_as_if_absent() -> None:
    body = '{"image": "a", "expected_quantity": null, "previous": null, "unchanged_rate": null}'
    assert read_request(body, "application/json") == ([Question("image", "a")], False)


@pytest.mark.parametrize(
    ("previous", "reason"),
    [
        ("a", "A photo is one of"),
        (True, "A photo is one of"),
        ([{"image": "a"}], "A photo is one of"),
        ({"count": 3}, "A photo is one of"),
        ({"image": "a", "url": "b"}, "A photo is one of"),
        ({"image": "a", "previous": {"image": "b"}}, "A photo is one of"),
        ({"image": "a", "unchanged_rate": 0.1}, "A photo is one of"),
        ({"image": 3}, '"image" has to be a string'),
        ({"image": "a", "count": 3, "expected_quantity": 3}, "not both"),
        *(
            ({"image": "a", "count": value}, '"count" has to be a whole')
            for value in (-1, 2.0, "3")
        ),
        ({"image": "a", "expected_quantity": True}, '"expected_quantity" has to be a whole'),
    ],
)
def test_a_visit_before_that_is_not_as_documented_is_400_and_named(
    previous: Any, reason: str
) -> None:
    with pytest.raises(RequestError) as raised:
        read_request(json.dumps({"image": "a", "previous": previous}), "application/json")
    assert raised.value.status == 400
    assert raised.value.reason.startswith('In "previous": ')
    assert reason in raised.value.reason
    assert "\n" not in raised.value.reason


@pytest.mark.parametrize("rate", [-0.1, 1.1, "0.1", True, [], {}, 10**400])
def test_an_unchanged_rate_is_a_share(rate: Any) -> None:
    content = {"image": "a", "previous": {"image": "b"}, "unchanged_rate": rate}
    assert status_of(json.dumps(content)) == 400
    assert status_of(json.dumps(content).replace(json.dumps(rate), "1e999")) == 400


def test_an_unchanged_rate_without_a_visit_before_is_400() -> None:
    assert status_of('{"image": "a", "unchanged_rate": 0.1}') == 400
    assert status_of('{"image": "a", "unchanged_rate": 0.1, "previous": null}') == 400


def test_a_pair_counts_for_two_of_the_photos_that_a_request_may_have() -> None:
    pair, single = {"image": TEXT, "previous": {"image": TEXT}}, {"image": TEXT}
    assert len(read_request(json.dumps({"instances": [pair] * 16}), "application/json")[0]) == 16
    assert status_of(json.dumps({"instances": [*[pair] * 16, single]})) == 413


@pytest.mark.parametrize("source", ["s3_key", "url"])
def test_a_refusal_of_the_visit_before_names_it(source: str) -> None:
    photos = [Question("body", PHOTO), Previous(source, "https://example.com/a.jpg")]
    with pytest.raises(RequestError, match=r'^In "previous": This endpoint') as raised:
        list(photo_bytes(photos, PhotoSources()))
    assert raised.value.status == 403


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "text/csv", "multipart/form-data", "image/gif", "application/x-npy"],
)
def test_other_types_are_415(content_type: str | None) -> None:
    assert status_of(PHOTO, content_type) == 415


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/json"])
def test_no_body_is_415(content_type: str) -> None:
    assert status_of(None, content_type) == 415


@pytest.mark.parametrize(
    "body",
    [
        *("", "{", "null", "3", '"text"', "[]", "{}", '{"image": NaN}', "[" * 100_000, "1" * 9999),
        *('{"image": null}', '{"image": 3}', '{"image": ["a"]}', '{"picture": "a"}'),
        *('{"image": "a", "url": "b"}', '{"image": "a", "more": 1}', '{"inputs": "a"}'),
        *('{"instances": []}', '{"instances": {}}', '{"instances": [1]}', '{"instances": [[]]}'),
        '{"instances": [{"image": "a"}], "expected_quantity": 1}',
        '{"instances": [{"instances": []}]}',
        b"\xff\xfe\xff",
        *('{"image": "a", "expected_quantity": "3"}', '{"image": "a", "expected_quantity": -1}'),
        *('{"image": "a", "expected_quantity": 2.5}', '{"image": "a", "expected_quantity": true}'),
        '{"image": "a", "expected_quantity": 1' + "0" * 400 + "}",
    ],
)
def test_what_is_not_documented_is_400(body: str | bytes) -> None:
    assert status_of(body) == 400


def test_more_instances_than_the_limit_are_413() -> None:
    instances = [{"image": TEXT}] * MAX_INSTANCES
    assert len(read_request(json.dumps({"instances": instances}), "application/json")[0]) == 32
    assert status_of(json.dumps({"instances": [*instances, {"image": TEXT}]})) == 413


def test_photos_in_the_request_need_no_other_source() -> None:
    photos: list[Photo] = [Question("image", TEXT), Previous("body", PHOTO)]
    assert list(photo_bytes(photos, PhotoSources())) == [PHOTO, PHOTO]


@pytest.mark.parametrize(
    "text",
    [
        base64.encodebytes(PHOTO * 20).decode(),
        base64.encodebytes(PHOTO * 20).decode().replace("\n", "\r\n"),
        "data:image/jpeg;base64," + base64.b64encode(PHOTO * 20).decode(),
        "DATA:image/png;name=a.png;BASE64,\n" + base64.encodebytes(PHOTO * 20).decode(),
        "data:;base64," + base64.b64encode(PHOTO * 20).decode(),
    ],
    ids=[
        "lines",
        "lines of Windows",
        "data: URI",
        "data: URI of lines",
        "data: URI without a type",
    ],
)
def test_base64_comes_in_lines_and_as_a_data_uri(text: str) -> None:
    assert list(photo_bytes([Question("image", text)], PhotoSources())) == [PHOTO * 20]


@pytest.mark.parametrize(
    "text",
    [
        *("=", "a", "*&^", "é", f"data:image/jpeg,{TEXT}", "data:image/jpeg;base64", "data:,"),
        *(f"data:image/jpeg;base64,{TEXT[:-1]}", f"image/jpeg;base64,{TEXT}"),
    ],
)
def test_what_is_not_base64_is_400(text: str) -> None:
    with pytest.raises(RequestError) as raised:
        list(photo_bytes([Question("image", text)], PhotoSources()))
    assert raised.value.status == 400


@pytest.mark.parametrize("source", ["s3_key", "url"])
def test_photos_elsewhere_are_refused_unless_the_deployer_allows_them(source: str) -> None:
    with pytest.raises(RequestError) as raised:
        list(photo_bytes([Question(source, "https://example.com/a.jpg")], PhotoSources()))
    assert raised.value.status == 403


def test_the_deployer_allows_with_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PhotoSources.from_environment() == PhotoSources(None, frozenset())
    monkeypatch.setenv("BIN_PHOTOS_S3_PREFIX", "s3://aft-vbi-pds/bin-images/")
    monkeypatch.setenv("BIN_PHOTOS_URL_HOSTS", "a.example.com, b.example.com")
    sources = PhotoSources.from_environment()
    assert sources.s3
    assert (sources.s3.bucket, sources.s3.prefix) == ("aft-vbi-pds", "bin-images/")
    assert sources.url_hosts == {"a.example.com", "b.example.com"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BIN_PHOTOS_S3_PREFIX", "bin-images/"),
        ("BIN_PHOTOS_S3_PREFIX", "s3://bucket"),
        ("BIN_PHOTOS_S3_PREFIX", "s3://bucket/bin-images"),
        ("BIN_PHOTOS_URL_HOSTS", "*"),
        ("BIN_PHOTOS_URL_HOSTS", "169.254.169.254"),
    ],
)
def test_an_unclear_permission_stops_the_endpoint(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="BIN_PHOTOS"):
        PhotoSources.from_environment()
