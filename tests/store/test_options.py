import multiprocessing
import pickle
import socket
import sys
import traceback

import pytest

from deepsentinel.errors import (
    MissingExtraError,
    NotAuthorisedError,
    StoreError,
    TransientError,
)
from deepsentinel.store import Options, open_store
from deepsentinel.store.families import family_of
from deepsentinel.store.faults import Place, explain
from deepsentinel.store.options import redact
from deepsentinel.store.retry import Retry

KEY = "c2VjcmV0LWtleS1vZi1henVyZQ=="
CONNECTION = (
    f"DefaultEndpointsProtocol=https;AccountName=me;AccountKey={KEY};EndpointSuffix=core.net"
)
SECRETS = {
    "account_name": "me",
    "account_key": KEY,
    "connection_string": CONNECTION,
    "client_kwargs": {"headers": {"Authorization": "Bearer abcdefgh12345678"}},
    "anon": False,
    "token": {"private_key": "-----BEGIN PRIVATE KEY-----"},
}


def test_what_is_shown():
    shown = repr(Options(SECRETS))
    assert "'account_name': 'me'" in shown
    assert "'anon': False" in shown
    for secret in (KEY, "Bearer", "abcdefgh12345678", "PRIVATE"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("token", "shown"),
    [("anon", True), ("google_default", True), ("/keys/me.json", True), ("ya29.a0AfH6SMB", False)],
)
def test_tokens_that_are_names_and_those_that_are_not(token, shown):
    assert (token in repr(Options({"token": token}))) is shown


def test_a_pickle_leaves_secrets_behind_and_says_so():
    data = pickle.dumps(Options(SECRETS))
    for secret in (KEY, "Bearer", "PRIVATE"):
        assert secret.encode() not in data
    again = pickle.loads(data)  # noqa: S301 - ours
    assert dict(again) == {"account_name": "me", "anon": False}
    assert again.withheld == ("account_key", "connection_string", "client_kwargs", "token")
    place = Place("az://c/x", family_of("az"), again, None)
    error = explain(PermissionError("no"), place)
    assert isinstance(error, NotAuthorisedError)
    assert "credentials (account_key, connection_string, client_kwargs, token)" in str(error)
    assert "left behind" in str(error)


def keys_of(options, answers):
    answers.put(options["account_key"] == KEY)


def test_a_process_that_is_started_gets_everything():
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    worker = context.Process(target=keys_of, args=(Options(SECRETS), answers))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert answers.get()


def test_an_error_of_a_client_is_redacted():
    options = Options(SECRETS)
    said = f"GET https://me.core.net/c?sv=1&sig=AbC%3D: {CONNECTION} with {KEY} Bearer tok123456789"
    place = Place("az://c/x", family_of("az"), options, None)
    error = explain(RuntimeError(said), place)
    told = "".join(traceback.format_exception(error))
    for secret in (KEY, "AbC%3D", "tok123456789"):
        assert secret not in told
    assert "sig=***" in told


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("https://h/a?sv=2&se=3&sp=r&sig=a%2Bb%3D", "a%2Bb%3D"),
        ("https://b.s3.amazonaws.com/k?X-Amz-Credential=AKIA&X-Amz-Signature=deadbeef", "deadbeef"),
        ("https://h/k?X-Goog-Signature=deadbeef&x=1", "deadbeef"),
        ("https://me:hunter2@host/a", "hunter2"),
        ("Authorization: Bearer hf_abcdefghijkl", "hf_abcdefghijkl"),
        ("AccountName=me;AccountKey=Zm9vYmFy==;x=1", "Zm9vYmFy"),
    ],
)
def test_redact(text, secret):
    assert secret not in redact(text)
    assert redact(redact(text)) == redact(text)


def test_what_is_no_secret_stays():
    for text in (
        "gs://bucket/a=b/c",
        "container@account.dfs.core.windows.net/x",
        "token of 3 words",
    ):
        assert redact(text) == text


def test_a_signed_url_is_used_and_not_shown():
    store = open_store("https://host/corpus?sv=1&sig=abcdef")
    assert store.url == "https://host/corpus"
    assert store._join("a b.json") == "https://host/corpus/a%20b.json?sv=1&sig=abcdef"
    assert "abcdef" not in repr(store)
    assert b"abcdef" not in pickle.dumps(store)


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(StoreError, match="storage_options") as caught:
        open_store("https://me:hunter2@host/corpus")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("gs://b/c", {"tokenn": "anon"}, r"names? 'tokenn'.*Did you mean 'token'"),
        ("az://b/c", {"acount_name": "me"}, r"names? 'acount_name'.*Did you mean 'account_name'"),
        ("gs://b/c", {"token": "nowhere/key.json"}, "no service-account file 'nowhere/key.json'"),
    ],
)
def test_options_that_a_client_would_not_look_at_are_refused(url, options, said):
    """Before anything is sent: a wrong path would go to Google as if it were a token."""
    with pytest.raises(StoreError, match=said):
        open_store(url, storage_options=options, retry=Retry(attempts=1)).read("x")


@pytest.mark.parametrize("scheme", ["gs", "s3", "az", "https", "hf"])
def test_a_url_that_names_no_place_is_refused(scheme):
    with pytest.raises(StoreError, match=f"{scheme}:// names no place"):
        open_store(f"{scheme}://")


def test_a_client_that_is_not_installed_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'deepsentinel\[s3\]'"):
        open_store("s3://bucket/corpus").read("x")


def test_what_a_web_server_did_not_do_is_said_as_it_was():
    """fsspec says "file not found" of a connection that was refused."""
    with socket.socket() as taken:  # bound and not listening: nobody else can, either
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/corpus"
        with pytest.raises(TransientError, match="Cannot connect to host") as caught:
            open_store(url, retry=Retry(attempts=1)).read("x")
    assert "FileNotFound" not in str(caught.value)
    assert "after 1 try in" in str(caught.value)
