"""The page over HTTP: who sees it, and that it runs nothing but its own script."""

import httpx
import pytest
import trio

from hivemind_p2p.job import Job
from hivemind_p2p.jobs_page.book import JobsBook
from hivemind_p2p.jobs_page.server import STATIC, make_app, serve

SECRET = "kV0secret"
HERE = "http://127.0.0.1:1234"


@pytest.fixture
def book():
    made = JobsBook()
    job = Job("abc", "<script>alert(1)</script>")
    job.moved("QUEUED", None)
    made.add(job)
    return made


def client(book, base=HERE):
    return httpx.AsyncClient(transport=httpx.ASGITransport(make_app(book, SECRET)), base_url=base)


@pytest.mark.parametrize("path", ["", "page.js", "page.css", "jobs", "jobs/abc"])
async def test_who_knows_the_address_sees_the_jobs(book, path):
    async with client(book) as browser:
        answer = await browser.get(f"/{SECRET}/{path}")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "path", ["/", "/jobs", "/wrong/", "/wrong/jobs", f"/{SECRET}", f"/{SECRET}x/jobs", "/../jobs", "/k%C3%A9y/jobs"]
)
async def test_who_does_not_finds_nothing(book, path):
    async with client(book) as browser:
        answer = await browser.get(path)
    assert (answer.status_code, answer.text) == (404, "There is nothing here.")


@pytest.mark.parametrize("path", ["jobs/none", "jobs/", "page.html", "other", "%2e%2e/server.py", "..%2fserver.py"])
async def test_there_is_nothing_but_the_page(book, path):
    async with client(book) as browser:
        assert (await browser.get(f"/{SECRET}/{path}")).status_code == 404


@pytest.mark.parametrize("host", ["evil.example:1234", "evil.example", "127.0.0.1.evil.example:1", "x"])
async def test_it_answers_to_the_name_of_this_machine_only(book, host):
    async with client(book) as browser:
        answer = await browser.get(f"/{SECRET}/jobs", headers={"host": host})
        assert answer.status_code == 404
        assert (await browser.post(f"/{SECRET}/jobs")).status_code == 405


def test_the_page_runs_its_own_script_only_and_puts_in_text_only():
    page, script = STATIC.joinpath("page.html").read_text(), STATIC.joinpath("page.js").read_text()
    assert page.count("<script") == 1
    assert "http" not in page
    assert not any(
        word in script for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval")
    )


async def test_it_is_served_on_loopback_under_a_secret_of_its_own(book, nursery):
    urls = [await nursery.start(serve, book) for _ in range(2)]
    assert urls[0].split("/")[3] != urls[1].split("/")[3]
    for url in urls:
        assert url.startswith("http://127.0.0.1:")
        async with httpx.AsyncClient() as browser:
            with trio.fail_after(20):
                answer = await browser.get(f"{url}jobs")
                assert answer.json()["counts"] == {"QUEUED": 1}
                assert (await browser.get(url.rsplit("/", 2)[0] + "/x/jobs")).status_code == 404
    nursery.cancel_scope.cancel()
