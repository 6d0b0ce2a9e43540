"""The configuration: where it comes from, every problem at once, and no secret in what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.settings.section import SettingsInvalid, revealed, split_address
from gateway.settings.seen import Seen
from gateway.settings.sources import load


def problems(file: Path | None = None, **given: Any) -> dict[str, str]:
    """What is wrong with a configuration, by key; fails when nothing is."""
    given.setdefault("environ", {})
    with pytest.raises(SettingsInvalid) as caught:
        load(file, **given)
    return {problem.key: problem.message for problem in caught.value.problems}


class TestSources:
    def test_defaults_are_enough(self) -> None:
        settings = load(environ={})

        assert (settings.listen, settings.admin_listen) == ("127.0.0.1:8080", "127.0.0.1:9090")
        assert [*settings.tenants] == ["default"]

    def test_flags_win_over_the_environment_and_that_over_the_file_key_by_key(self, tmp_path: Path) -> None:
        file = tmp_path / "gateway.toml"
        file.write_text(
            'listen = "file:1"\ndrain_seconds = 1\n[edge]\nkeepalive_seconds = 1\nmax_connections = 1\n'
            "header_timeout_seconds = 1\n"
        )
        environ = {
            "GATEWAY_DRAIN_SECONDS": "2",
            "GATEWAY_EDGE__KEEPALIVE_SECONDS": "2",
            "GATEWAY_EDGE__MAX_CONNECTIONS": "2",
        }

        settings = load(file, flags={"edge": {"max_connections": 3}}, environ=environ)

        assert (settings.listen, settings.drain_seconds) == ("file:1", 2.0)
        edge = settings.edge
        assert (edge.header_timeout_seconds, edge.keepalive_seconds, edge.max_connections) == (1.0, 2.0, 3)

    def test_environment_may_hold_whole_tables_and_lists(self) -> None:
        environ = {
            "GATEWAY_TENANTS": '{"acme":{"models":["a"],"limits":{"max_requests_per_1_minute":7}}}',
            "GATEWAY_UPSTREAM__API_KEY": "sk-from-environment",
            "gateway_listen": "lower:1",
        }

        settings = load(environ=environ)

        assert settings.tenants["acme"].models == ("a",)
        assert settings.tenants["acme"].limits.max_requests_per_1_minute == 7
        assert revealed(settings.upstream.api_key) == "sk-from-environment"
        assert settings.listen == "lower:1"

    def test_nothing_but_what_is_given_is_read(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("GATEWAY_LISTEN", "process:1")
        (tmp_path / ".env").write_text("GATEWAY_LISTEN=hidden:1\n")

        assert load(environ={}).listen == "127.0.0.1:8080"
        assert load().listen == "process:1"

    def test_tenants_of_further_files_join_those_of_the_configuration(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "d/a.toml").write_text("[tenants.a]\n")
        (tmp_path / "d/b.toml").write_text("[tenants.b]\n[tenants.c]\n")
        (tmp_path / "d/README").write_text("no tenants")
        file = tmp_path / "gateway.toml"
        file.write_text('tenants_path = "d"\n[tenants.main]\n')

        settings = load(file, environ={})

        assert {*settings.tenants} == {"main", "a", "b", "c"}
        assert settings.tenants_path == tmp_path / "d"

    def test_tenants_path_is_relative_to_the_file_and_may_be_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "more.toml").write_text("[tenants.more]\n")
        file = tmp_path / "gateway.toml"
        file.write_text('tenants_path = "more.toml"\n')

        assert {*load(file, environ={}).tenants} == {"more"}

    def test_home_is_understood_in_paths(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in ("ca.pem", "set.json"):
            (tmp_path / name).write_text(name)
        issuer = {"issuer": "i", "audience": "g", "tenants": ["*"], "scopes": ["*"]}
        settings = load(
            flags={"keys_dir": "~/keys", "issuers": {"i": {**issuer, "jwks_file": "~/set.json"}}},
            environ={"GATEWAY_UPSTREAM__CA_FILE": "~/ca.pem"},
        )

        assert settings.keys_dir == tmp_path / "keys"
        kept = settings.upstream.ca_file, settings.issuers["i"].jwks_file
        assert [(file.path, bytes(file)) for file in kept if file is not None] == [
            (tmp_path / "ca.pem", b"ca.pem"),
            (tmp_path / "set.json", b"set.json"),
        ]


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of whom nothing is known but the number, as containers have them: `~` leads nowhere."""
    monkeypatch.setenv("HOME", "~")


@pytest.mark.usefixtures("nobody")
class TestWithoutAHome:
    def test_none_is_needed_where_it_is_said_where_keys_are(self) -> None:
        assert load(environ={"GATEWAY_KEYS_DIR": "/var/lib/keys"}).keys_dir == Path("/var/lib/keys")
        assert load(environ={"XDG_CONFIG_HOME": "/etc"}).keys_dir == Path("/etc/gateway/keys")

    def test_keys_that_would_lie_there_are_a_problem_and_no_crash(self) -> None:
        assert problems(environ={})["keys_dir"].startswith("is not set, and this user has no home")


class TestProblems:
    def test_all_are_said_at_once_wherever_they_are(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "d/one.toml").write_text("[tenants.twice]\n[tenants.one]\nbogus = 1\n")
        (tmp_path / "d/two.toml").write_text("[tenants.twice]\n[extra]\n")
        (tmp_path / "d/three.toml").write_text("no toml\n")
        file = tmp_path / "gateway.toml"
        file.write_text(
            'listen = "nowhere"\ntenants_path = "d"\n[upstream]\nbase_url = "ftp://x"\napi_key = "env:UNSET"\n'
            '[tenants.main]\nscopes = ["file:read"]\nlogging = "loud"\n'
        )

        said = problems(
            file,
            flags={"drain_seconds": -1},
            environ={"GATEWAY_EDGE__MAX_HEADER_BYTES": "0", "GATEWAY_REDIS_URL": "file:/no/such"},
        )

        named = "\n".join(f"{key}: {message}" for key, message in said.items())
        for part in (
            *(
                "listen",
                "upstream.base_url",
                "upstream.api_key",
                "tenants.main.scopes",
                "tenants.main.logging",
            ),
            *("drain_seconds", "edge.max_header_bytes", "redis_url", "tenants.one.bogus", "tenants.twice"),
            *("two.toml: extra", "three.toml"),
        ):
            assert part in named, named

    @pytest.mark.parametrize(
        ("flags", "key", "suggestion"),
        [
            ({"listn": "x:1"}, "listn", "'listen'"),
            ({"upstream": {"base_ulr": "x"}}, "upstream.base_ulr", "'base_url'"),
            (
                {"upstream": {"timeouts": {"generation": {"idle_second": 1}}}},
                "upstream.timeouts.generation.idle_second",
                "'idle_seconds'",
            ),
            ({"edge": {"keepalive": 1}}, "edge.keepalive", "'keepalive_seconds'"),
            ({"tenants": {"a": {"modles": []}}}, "tenants.a.modles", "'models'"),
            (
                {"tenants": {"a": {"limits": {"max_request_per_1_minute": 1}}}},
                "tenants.a.limits.max_request_per_1_minute",
                "'max_requests_per_1_minute'",
            ),
            ({"tenants": {"a": {"upstream": {"apikey": "x"}}}}, "tenants.a.upstream.apikey", "'api_key'"),
            ({"zzz": 1}, "zzz", "known here"),
            ({"credentials": {"qqq": 1}}, "credentials.qqq", "audience"),
        ],
    )  # fmt: skip
    def test_unknown_key_is_named_with_what_was_probably_meant(
        self, flags: dict[str, Any], key: str, suggestion: str
    ) -> None:
        said = problems(flags=flags)

        assert suggestion in said[key]

    def test_unknown_key_of_a_section_is_a_problem_in_a_variable_too(self) -> None:
        assert (
            "'keepalive_seconds'"
            in problems(environ={"GATEWAY_EDGE__KEEPALIVE_SECOND": "1"})["edge.keepalive_second"]
        )

    def test_variables_that_others_set_are_none_of_ours(self) -> None:
        """Kubernetes sets the first three wherever there is a service named `gateway`."""
        kubernetes = {
            "GATEWAY_PORT": "tcp://10.0.0.1:80",
            "GATEWAY_SERVICE_HOST": "10.0.0.1",
            "GATEWAY_SERVICE_PORT": "80",
        }

        load(environ=kubernetes | {"GATEWAY_CREDENTIAL": "eyJ", "OPENAI_API_KEY": "sk", "PATH": "/bin"})

    @pytest.mark.parametrize("tenant_id", ["", "other", "-a", ".a", "a b", "a/b", "a" * 65, "ü", "a\n"])
    def test_tenant_has_a_name_that_fits_everywhere(self, tenant_id: str) -> None:
        assert "cannot name a tenant" in problems(flags={"tenants": {tenant_id: {}}})["tenants"]

    @pytest.mark.parametrize("tenant_id", ["a", "A", "0", "a.b-c_d", "a" * 64, "Other"])
    def test_ordinary_names_are_accepted(self, tenant_id: str) -> None:
        assert [*load(flags={"tenants": {tenant_id: {}}}, environ={}).tenants] == [tenant_id]

    @pytest.mark.parametrize(
        ("flags", "key"),
        [
            ({"listen": "127.0.0.1:8080", "admin_listen": "127.0.0.1:8080"}, "admin_listen"),
            ({"tenants": {}}, "tenants"),
            ({"tenants": {"a": {"models": ["gpt-4o*"], "default_model": "o3"}}}, "tenants.a.default_model"),
        ],
    )
    def test_contradictions_are_problems(self, flags: dict[str, Any], key: str) -> None:
        assert key in problems(flags=flags)

    def test_two_listeners_on_any_free_port_are_no_contradiction(self) -> None:
        load(flags={"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"}, environ={})

    @pytest.mark.parametrize(
        "text", ["tenants = 5", "tenants = [1]", "upstream = 5", "edge = []", "limits = true"]
    )
    def test_table_that_is_none_is_a_problem_and_no_crash(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "more.toml").write_text("[tenants.more]\n")
        file = tmp_path / "gateway.toml"
        file.write_text(f'tenants_path = "more.toml"\n{text}\n')

        assert problems(file)

    def test_tenants_file_whose_tenants_are_none_is_a_problem(self, tmp_path: Path) -> None:
        (tmp_path / "more.toml").write_text("tenants = 3\n")
        file = tmp_path / "gateway.toml"
        file.write_text('tenants_path = "more.toml"\n[tenants.main]\n')

        assert any("more.toml" in key for key in problems(file))

    def test_broken_json_in_a_variable_is_a_problem(self) -> None:
        assert problems(environ={"GATEWAY_TENANTS": '{"a":'})

    @pytest.mark.parametrize("address", ["8080", "", "a:b", "a:-1", "a:65536", "a:", "[::1]"])
    def test_address_is_host_and_port(self, address: str) -> None:
        assert "HOST:PORT" in problems(flags={"listen": address})["listen"]

    @pytest.mark.parametrize(
        ("address", "parts"),
        [
            ("a:1", ("a", 1)),
            (":8080", ("127.0.0.1", 8080)),
            ("[::1]:9", ("::1", 9)),
            ("0.0.0.0:0", ("0.0.0.0", 0)),
        ],
    )
    def test_address_is_split(self, address: str, parts: tuple[str, int]) -> None:
        assert split_address(load(flags={"listen": address}, environ={}).listen) == parts

    @pytest.mark.parametrize(
        ("url", "read"),
        [
            ("http://h/v1", "http://h/v1"),
            ("http://h/v1/", "http://h/v1"),
            ("HTTPS://Host.Example:443/V1", "https://host.example/V1"),
            ("http://h:8000", "http://h:8000"),
            ("http://[::1]:80/v1", "http://[::1]/v1"),
        ],
    )
    def test_base_url_has_one_spelling(self, url: str, read: str) -> None:
        assert load(flags={"upstream": {"base_url": url}}, environ={}).upstream.base_url == read

    @pytest.mark.parametrize(
        "url",
        ["h/v1", "ftp://h", "http://", "//h", "http://h?x", "http://h#x", "http://u:p@h", "http://h:port"],
    )
    def test_base_url_is_absolute_and_holds_no_login(self, url: str) -> None:
        assert "upstream.base_url" in problems(flags={"upstream": {"base_url": url}})
        assert problems(flags={"tenants": {"a": {"upstream": {"base_url": url}}}})

    @pytest.mark.parametrize("text", ["", "a b", "a\r\nX: y", "ü", "x" * 300])
    def test_what_becomes_a_header_field_fits_into_one(self, text: str) -> None:
        assert "upstream.project" in problems(flags={"upstream": {"project": text}})


class TestSecrets:
    EVERYWHERE = {  # noqa: RUF012
        "redis_url": "redis://:CANARY-1@h:1/0",
        "upstream": {
            "api_key": "sk-CANARY-2",
            "admin_api_key": "sk-CANARY-3",
            "http_proxy": "http://u:CANARY-4@p:1",
        },
        "tenants": {"a": {"upstream": {"api_key": "sk-CANARY-5"}}},
    }

    def test_are_masked_wherever_settings_are_printed(self) -> None:
        settings = load(flags=self.EVERYWHERE, environ={})

        for text in (
            repr(settings),
            str(settings),
            repr(settings.upstream),
            repr(settings.tenants),
            f"{settings}",
        ):
            assert "CANARY" not in text
        assert "CANARY" not in str(settings.model_dump())
        assert "CANARY" not in settings.model_dump_json()

    @pytest.mark.parametrize(
        "flags",
        [
            {"redis_url": ["CANARY"]},
            {"redis_url": {"x": "CANARY"}},
            {"upstream": "CANARY"},
            {"upstream": ["CANARY"]},
            {"upstream": {"api_key": ["CANARY"]}},
            {"upstream": {"api_key": {"value": "CANARY"}}},
            {"upstream": {"http_proxy": ["http://u:CANARY@p"]}},
            {"upstream": {"base_url": "ftp://u:CANARY@h"}},
            {"upstream": {"project": "has blanks CANARY"}},
            {"tenants": {"a": "CANARY"}},
            {"tenants": {"a": {"upstream": "CANARY"}}},
            {"tenants": {"a": {"upstream": {"api_key": 5, "base_url": "CANARY"}}}},
            {"issuers": {"x": {"issuer": "x", "audience": "y", "scopes": ["*"], "jwks": [{"k": "CANARY"}]}}},
            {"issuers": {"x": {"jwks": "CANARY"}}},
        ],
    )
    def test_are_in_no_problem(self, flags: dict[str, Any]) -> None:
        assert "CANARY" not in str(problems(flags=flags))

    def test_are_read_by_reference(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("  sk-from-file\n")

        def read(reference: str) -> str | None:
            flags = {"upstream": {"admin_api_key": reference}}
            return revealed(load(flags=flags, environ={"KEY": "sk-from-variable"}).upstream.admin_api_key)

        assert read("env:KEY") == "sk-from-variable"
        assert read(f"file:{tmp_path / 'key'}") == "sk-from-file"
        assert read("sk-itself") == "sk-itself"
        assert revealed(load(environ={}).upstream.admin_api_key) is None

    def test_white_space_around_them_is_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("\n\tsk-from-file \r\n")
        spaced = {"KEY": " sk-from-variable\n", "OPENAI_API_KEY": "sk-sdk\r\n", "GATEWAY_LISTEN": " a:1\n"}

        def read(reference: str | None) -> str | None:
            flags = {} if reference is None else {"upstream": {"api_key": reference}}
            return revealed(load(flags=flags, environ=spaced).upstream.api_key)

        assert read(None) == "sk-sdk"
        assert read("env:KEY") == "sk-from-variable"
        assert read(f"file:{tmp_path / 'key'}") == "sk-from-file"
        assert read(" sk-itself\n") == "sk-itself"
        assert load(environ=spaced).listen == "a:1"

    @pytest.mark.parametrize("inside", ["\n", "\r\n", "\0", "\t", " ", "\x7f", "\u2028", "é"])
    def test_what_no_header_can_hold_is_refused_by_the_name_of_its_key(
        self, tmp_path: Path, inside: str
    ) -> None:
        (tmp_path / "key").write_text(f"sk-CANARY{inside}X-Evil: 1", encoding="utf-8")
        bad = {"KEY": f"sk-CANARY{inside}X"}
        reference = f"file:{tmp_path / 'key'}"

        for flags, environ, key in (
            ({"upstream": {"api_key": reference}}, {}, "upstream.api_key"),
            ({"upstream": {"admin_api_key": "env:KEY"}}, bad, "upstream.admin_api_key"),
            ({"upstream": {"api_key": bad["KEY"]}}, {}, "upstream.api_key"),
            ({"tenants": {"a": {"upstream": {"api_key": "env:KEY"}}}}, bad, "tenants.a.upstream.api_key"),
            ({}, {"OPENAI_API_KEY": bad["KEY"]}, "OPENAI_API_KEY"),
            ({"upstream": {"organization": bad["KEY"]}}, {}, "upstream.organization"),
            ({"upstream": {"base_url": f"http://h/v1{inside}x"}}, {}, "upstream.base_url"),
            ({}, {"OPENAI_BASE_URL": f"http://h/v1{inside}x"}, "OPENAI_BASE_URL"),
            ({"tenants": {"a": {"upstream": {"project": bad["KEY"]}}}}, {}, "tenants.a.upstream.project"),
        ):
            said = problems(flags=flags, environ=environ)
            assert [*said] == [key]
            assert "CANARY" not in str(said)
        if inside != "é":
            assert [*problems(flags={"redis_url": f"redis://h{inside}x"})] == ["redis_url"]

    def test_where_others_can_read_them_are_warned_of(self, tmp_path: Path) -> None:
        file = tmp_path / "gateway.toml"
        literal = 'redis_url = "redis://h:1"\n[upstream]\napi_key = "sk-CANARY"\nadmin_api_key = "env:A"\n'
        more = '[tenants.a.upstream]\napi_key = "sk-CANARY"\n'
        (tmp_path / "more.toml").write_text(more)
        file.write_text(f'tenants_path = "more.toml"\n{literal}')
        flags = {"upstream": {"http_proxy": "http://u:CANARY@p:1"}, "redis_url": "redis://h:1"}

        def warned(mode: int, **more: Any) -> list[str]:
            seen = Seen()
            for path in (file, tmp_path / "more.toml"):
                path.chmod(mode)
            load(file, environ={"A": "sk-a"}, seen=seen, **more)
            assert "CANARY" not in str(seen.warnings)
            return seen.warnings

        assert warned(0o640) == []
        first, second = warned(0o644)
        assert first.startswith("upstream.api_key: ")
        assert f"chmod o-r {file}" in first
        assert second.startswith("tenants.a.upstream.api_key: ")
        [of_flags] = warned(0o600, flags=flags)
        assert of_flags.startswith("upstream.http_proxy: ")
        assert "command line" in of_flags

    @pytest.mark.parametrize(("algorithm", "warned"), [("HS256", True), ("EdDSA", False)])
    def test_in_an_open_set_of_keys_is_warned_of_unless_all_are_public(
        self, algorithm: str, warned: bool, tmp_path: Path
    ) -> None:
        keys = tmp_path / "jwks.json"
        keys.write_text("{}")
        keys.chmod(0o644)
        issuer = {"issuer": "i", "audience": "g", "jwks_file": str(keys), "algorithms": [algorithm]}
        issuer |= {"tenants": ["default"], "scopes": ["*"]}
        seen = Seen()
        load(None, environ={}, flags={"issuers": {"partner": issuer}}, seen=seen)
        assert [f"chmod o-r {keys}" in line for line in seen.warnings] == [True] * warned

    def test_behind_references_are_masked_and_in_no_problem(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("redis://:CANARY-1@redis\n")
        flags: dict[str, Any] = {
            "redis_url": f"file:{tmp_path / 'key'}",
            "upstream": {"api_key": "env:KEY"},
            "tenants": {"a": {"upstream": {"api_key": "env:KEY"}}},
        }
        environ = {"KEY": "sk-CANARY-2", "OPENAI_API_KEY": "sk-CANARY-3"}

        settings = load(flags=flags, environ=environ)
        said = problems(flags=flags | {"listen": "nonsense", "bogus": 1, "edge": []}, environ=environ)

        assert revealed(settings.upstream.api_key) == "sk-CANARY-2"
        assert "CANARY" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
        assert "CANARY" not in str(said)

    @pytest.mark.parametrize("kind", ["missing", "a folder", "too large", "open to all", "no path"])
    def test_a_file_of_keys_or_certificates_that_cannot_be_taken_is_a_problem_with_its_key(
        self, kind: str, tmp_path: Path
    ) -> None:
        file: Any = tmp_path / "file"
        match kind:
            case "a folder":
                file.mkdir()
            case "too large":
                file.write_bytes(b"x" * (4 * 2**20 + 1))
            case "open to all":
                file.write_text("{}")
                file.chmod(0o666)
            case "no path":
                file = {"path": "x", "content": "written down here"}
        issuer = {"issuer": "i", "audience": "g", "tenants": ["*"], "scopes": ["*"], "jwks_file": file}
        said = problems(
            flags={"upstream": {"ca_file": file}, "issuers": {"i": issuer}, "drain_seconds": -1}, environ={}
        )

        assert ("upstream.ca_file" in str(said)) == (kind != "open to all")
        assert "issuers.i.jwks_file" in str(said)
        assert "drain_seconds" in str(said)

    def test_flags_keep_their_references(self) -> None:
        flags = {"upstream": {"api_key": "env:KEY"}}

        load(flags=flags, environ={"KEY": "sk-from-variable"})

        assert flags == {"upstream": {"api_key": "env:KEY"}}

    @pytest.mark.parametrize("reference", ["env:UNSET", "env:", "file:/no/such/file", "file:/"])
    def test_reference_that_leads_nowhere_is_a_problem_with_its_key(self, reference: str) -> None:
        said = problems(
            flags={"upstream": {"api_key": reference}, "tenants": {"a": {"upstream": {"api_key": reference}}}}
        )

        assert said.keys() == {"upstream.api_key", "tenants.a.upstream.api_key"}
        assert all(reference in message for message in said.values())

    def test_empty_file_is_a_problem_and_lets_no_other_key_step_in(self, tmp_path: Path) -> None:
        """A file is empty while it is being written; its tenant's requests must not go up with the common key."""
        (tmp_path / "key").write_text(" \n")
        empty = {"api_key": f"file:{tmp_path / 'key'}"}

        said = problems(
            flags={"upstream": empty, "tenants": {"a": {"upstream": empty}}},
            environ={"OPENAI_API_KEY": "sk-sdk"},
        )

        assert said.keys() == {"upstream.api_key", "tenants.a.upstream.api_key"}
        assert all("is empty" in message for message in said.values())
