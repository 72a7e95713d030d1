"""Progress posts against a TLS server, /metrics, and that losing either fails nothing."""

import json
import re
import ssl
import threading
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

import pytest

from finetune_api.run import ExitCode, ProgressEndpoint, RunReport
from finetune_api.status import CheckpointStatus, EffectiveStatus, EpochStatus, ProgressStatus
from finetune_trainer.reporting.progress import ProgressClient, body_of
from ports import free_port
from unit.trainer.logs import messages
from unit.trainer.training.test_crash import ask_to_stop, do_at

REPORT = RunReport(
    progress=ProgressStatus(percent=34, step=4, total_steps=12, loss=0.5, learning_rate=5e-5, eta_seconds=9),
    epochs=[EpochStatus(epoch=1, step=4, eval_loss=0.25, metrics={"accuracy": 0.75})],
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1, with its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "operator")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "operator.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(built.public_bytes(pem) + private)
    return path


def nobody_prunes(reason):
    pytest.fail(f"pruned: {reason}")


class Endpoint:
    """A server that notes what it is sent; `reply` makes the answer's body of a post's."""

    def __init__(self, certificate, answers, reply):
        posts, codes = [], iter(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                posts.append((time.monotonic(), self.headers["Authorization"], body))
                self.send_response(next(codes, 200))
                self.end_headers()
                self.wfile.write(reply(body))

            def log_message(self, *arguments):
                pass

        self.posts = posts
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        self.url = f"https://127.0.0.1:{self.server.server_port}/progress"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def endpoint(certificate):
    """Makes servers that answer with the given codes, then 200."""
    made = []

    def make(*answers, reply=lambda body: b""):
        made.append(Endpoint(certificate, answers, reply))
        return made[-1]

    yield make
    for server in made:
        server.close()


def spec(tmp_path, certificate, url):
    (tmp_path / "token").write_text("first\n")
    return ProgressEndpoint(url=url, token_path=str(tmp_path / "token"), ca_path=str(certificate))


def test_the_body_is_what_kubeflows_callback_posts_and_the_report():
    body = body_of(REPORT, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert body["trainerStatus"] == {
        "progressPercentage": 34,
        "estimatedRemainingSeconds": 9,
        "lastUpdatedTime": "2026-01-02T03:04:05Z",
        "metrics": [
            {"name": "loss", "value": "0.5"},
            {"name": "learning_rate", "value": "5e-05"},
            {"name": "eval_loss", "value": "0.25"},
            {"name": "eval_accuracy", "value": "0.75"},
        ],
    }
    assert RunReport.model_validate(body["runReport"]) == REPORT


def test_a_post_fits_into_what_the_operator_takes_and_keeps_the_goal():
    best = CheckpointStatus(step=4, metric="eval_loss", value=0.25)
    labels = EffectiveStatus(labels=["\u8a9e" * 128] * 50)
    many = {f"metric_{number}": 0.1 + 0.2 for number in range(32)}
    epochs = [EpochStatus(epoch=1, step=step, metrics=many) for step in range(50)]
    report = REPORT.model_copy(update={"best": best, "effective": labels, "epochs": epochs})
    body = json.dumps(body_of(report, datetime.now(UTC)), ensure_ascii=False).encode()
    assert len(json.dumps(report.to_json())) > 64 * 1024 > len(body)
    read = RunReport.model_validate(json.loads(body)["runReport"])
    assert (read.best, read.epochs[-1]) == (best, epochs[-1])


def test_posts_carry_the_renewed_token_and_keep_their_distance(tmp_path, certificate, endpoint):
    server, said = endpoint(), messages()
    client = ProgressClient(spec(tmp_path, certificate, server.url), nobody_prunes, interval=60)
    client.offer(REPORT)
    while not server.posts:
        time.sleep(0.01)
    (tmp_path / "token").write_text("second")
    for step in range(50):
        client.offer(REPORT.model_copy(update={"from_step": step}))
        time.sleep(0.002)
    client.close()
    times, tokens, bodies = zip(*server.posts, strict=True)
    assert tokens == ("Bearer first", "Bearer second")
    assert bodies[-1]["runReport"]["fromStep"] == 49
    assert times[1] - times[0] >= 0.1
    assert said == []


def test_anything_but_200_is_said_once_until_it_works_again(tmp_path, certificate, endpoint):
    server, said = endpoint(202, 503, 200, 401), messages()
    client = ProgressClient(spec(tmp_path, certificate, server.url), nobody_prunes, interval=0.01)
    for number in range(4):
        client.offer(REPORT)
        while len(server.posts) <= number:
            time.sleep(0.005)
        time.sleep(0.05)
    client.close()
    assert [text.split("/progress: ")[1] for text in said] == [
        "it responded with HTTP 202; training continues",
        "HTTP Error 401: Unauthorized; training continues",
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"prune": {"reason": "others do better"}}, "others do better"),
        ({"prune": {"reason": "others", "rung": 2}, "said": "by a newer operator"}, "others"),
        ({"said": "by a newer operator"}, None),
        ({"prune": None}, None),
        ({}, None),
    ],
)
def test_an_answer_may_prune_and_what_is_not_known_of_it_is_passed_over(
    tmp_path, certificate, endpoint, answer, reason
):
    server, said, asked = endpoint(reply=lambda body: json.dumps(answer).encode()), messages(), []
    client = ProgressClient(spec(tmp_path, certificate, server.url), asked.append)
    client.offer(REPORT)
    client.close()
    assert (asked, said) == ([reason] if reason else [], [])


def test_answers_that_are_none_are_told_once(tmp_path, certificate, endpoint):
    answers = iter(
        [b"<html>", b"[]", b'{"prune": {}}', b'{"prune": {"reason": 7}}', b'{"prune": true}', b"\xff"]
    )
    server, said = endpoint(reply=lambda body: next(answers)), messages()
    client = ProgressClient(spec(tmp_path, certificate, server.url), nobody_prunes, interval=0.01)
    for number in range(6):
        client.offer(REPORT)
        while len(server.posts) <= number:
            time.sleep(0.005)
        time.sleep(0.05)
    client.close()
    assert next(answers, None) is None
    assert len(said) == 1
    assert "ignoring an invalid response from" in said[0]
    assert "Invalid JSON" in said[0]
    assert said[0].endswith("training continues")


def outdone(body):
    """What an operator answers once it knows how good a trial is."""
    done = body["runReport"].get("epochs")
    return json.dumps({"prune": {"reason": "others are better"}} if done else {}).encode()


ENDLESS = {"epochs": 10_000, "evaluation": {"bestMetric": "accuracy"}, "checkpoint": {"every": {"steps": 1}}}


@pytest.mark.parametrize("devices", [{"gpus": 0}, {"gpus": 2, "simulated": True}], ids=["one", "two"])
def test_a_pruned_trial_ends_without_a_model_and_without_checkpoints(
    make_job, tmp_path, certificate, endpoint, devices
):
    server = endpoint(reply=outdone)
    progress = spec(tmp_path, certificate, server.url).to_json()
    made = make_job(progress=progress, training=ENDLESS, devices=devices)
    code = made.run_apart()
    assert code == ExitCode.PRUNED, made.log
    report = made.report
    assert report.exit_code == ExitCode.PRUNED
    newest, best = report.epochs[-1], report.best
    goal = f"accuracy was {newest.metrics['accuracy']:g} at step {newest.step}"
    at_best = "" if best.step == newest.step else f", {best.value:g} at best (step {best.step})"
    told = re.fullmatch(r"pruned at step (\d+): (.*); others are better", report.message)
    assert told[2] == goal + at_best
    assert best.metric == "accuracy"
    assert 0 <= int(told[1]) - newest.step <= 6
    assert not made.model_dir.exists()
    assert not made.checkpoint_dir.exists()
    last = RunReport.model_validate(server.posts[-1][2]["runReport"])
    assert (last.exit_code, last.message) == (ExitCode.PRUNED, report.message)


def test_a_trial_that_is_pruned_before_it_goes_on_removes_the_checkpoints_of_the_attempt_before(
    make_job, tmp_path, certificate, endpoint
):
    made = make_job(training=ENDLESS)
    assert made.run_apart(lambda: do_at("step", 4, ask_to_stop)) == ExitCode.INTERRUPTED
    assert made.checkpoint_dir.exists()
    server = endpoint(reply=lambda body: b'{"prune": {"reason": "the search is over"}}')
    progress = spec(tmp_path, certificate, server.url).to_json()
    again = made.changed({"job": {"attempt": 2}, "progress": progress})
    assert again.run_apart() == ExitCode.PRUNED
    assert again.report.message.endswith("the search is over")
    assert not made.checkpoint_dir.exists()


def test_a_stranger_behind_the_address_gets_nothing(tmp_path, certificate, endpoint):
    server, said = endpoint(), messages()
    stranger = spec(tmp_path, certificate, server.url).model_copy(
        update={"ca_path": ssl.get_default_verify_paths().cafile}
    )
    client = ProgressClient(stranger, nobody_prunes, interval=0.01)
    client.offer(REPORT)
    client.close()
    assert server.posts == []
    assert "CERTIFICATE_VERIFY_FAILED" in said[0]


def test_plain_http_is_not_spoken(tmp_path, certificate):
    said = messages()
    client = ProgressClient(spec(tmp_path, certificate, "http://127.0.0.1:9/"), nobody_prunes)
    client.offer(REPORT)
    client.close()
    assert "not HTTPS" in said[0]


def test_a_run_posts_its_end_and_serves_metrics(make_job, tmp_path, certificate, endpoint, monkeypatch):
    import finetune_trainer.training.pipeline

    server = endpoint()
    port, pages = free_port(), []
    real = finetune_trainer.training.pipeline.publish

    def publish(*arguments):
        pages.append(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
        return real(*arguments)

    monkeypatch.setattr(finetune_trainer.training.pipeline, "publish", publish)
    progress = spec(tmp_path, certificate, server.url).to_json()
    assert make_job(progress=progress, metricsPort=port).run() == ExitCode.DONE
    last = RunReport.model_validate(server.posts[-1][2]["runReport"])
    assert (last.exit_code, last.progress.percent) == (0, 100)
    samples = dict(line.rsplit(" ", 1) for line in pages[0].splitlines() if not line.startswith("#"))
    assert float(samples["finetune_train_steps_total"]) == 12
    assert float(samples["finetune_train_examples_total"]) == 96
    assert 0 < float(samples['finetune_eval_metric{metric="accuracy"}']) <= 1
    assert float(samples["finetune_train_checkpoint_last_success_timestamp_seconds"]) > 1e9


def test_neither_a_dead_endpoint_nor_a_taken_port_fails_a_run(
    make_job, tmp_path, certificate, endpoint, capsys
):
    taken = endpoint().server.server_port
    progress = spec(tmp_path, certificate, "https://127.0.0.1:9/").to_json()
    assert make_job(progress=progress, metricsPort=taken, training={"epochs": 1}).run() == ExitCode.DONE
    warnings = [
        json.loads(line)["message"] for line in capsys.readouterr().out.splitlines() if '"warning"' in line
    ]
    assert [text.partition(":")[0] for text in warnings] == [
        f"cannot serve /metrics on port {taken}",
        "cannot report progress to https",
    ]
