//! Settings: flag before environment before file, each by its name; and what is refused.

use std::path::Path;

use certctl_core::{Error, Result};
use certctl_server::{
    Config,
    config::{OTHERS, SettingKind, Settings, settings},
};

fn read(flags: &[(&str, &str)], environment: &[(&str, &str)], file: Option<&str>) -> Result<Config> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("certctl.toml");
    if let Some(text) = file {
        std::fs::write(&path, text).unwrap();
    }
    let connectors = certctl_server::connectors();
    let owned = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    let file = file.map(|_| path.as_path());
    Settings::gather(&connectors, owned(flags), owned(environment), file)?.config(&connectors)
}

fn places(error: &Error) -> Vec<&str> {
    error.violations().iter().map(|violation| violation.pointer.as_str()).collect()
}

/// For each setting three values that differ, and a test for what came of it.
#[test]
fn each_setting_works_by_flag_environment_and_file() {
    type Shown = fn(&Config) -> String;
    let cases: [(&str, [&str; 3], Shown); 8] = [
        ("data_dir", ["/f", "/e", "/t"], |config| config.data_dir.display().to_string()),
        ("listen", ["127.0.0.1:1", "127.0.0.1:2", "[::1]:3"], |config| config.listen.to_string()),
        ("database_url", ["sqlite:/f", "sqlite:///e", "sqlite:t"], |config| {
            let path = config.database.as_deref().unwrap_or(Path::new(""));
            format!("sqlite:{}", path.display())
        }),
        ("server_names", ["f.test", "e.test", "t.test"], |config| config.server_names.join(",")),
        ("log_level", ["error", "warn", "debug"], |config| config.log_level.clone()),
        ("max_connections", ["1", "2", "3"], |config| config.max_connections.to_string()),
        ("renewal_concurrency", ["1", "2", "3"], |config| config.renewal_concurrency.to_string()),
        ("shutdown_timeout", ["1s", "2s", "3s"], |config| format!("{}s", config.shutdown_timeout.as_secs())),
    ];
    let connectors = certctl_server::connectors();
    let own = settings(&connectors).into_iter().filter(|setting| setting.kind == SettingKind::Own);
    let own: Vec<String> = own.map(|setting| setting.key).filter(|key| key != "config").collect();
    let tested: Vec<&str> = cases.iter().map(|(key, ..)| *key).collect();
    assert_eq!(own, tested, "each setting has its case");
    for (key, [flag, variable, line], shown) in cases {
        let name = format!("CERTCTL_{}", key.to_uppercase());
        let file = format!("{key} = \"{line}\"\n");
        let plain = |text: &str| text.replace("sqlite:///", "sqlite:/");
        let config = read(&[(key, flag)], &[(&name, variable)], Some(&file)).unwrap();
        assert_eq!(shown(&config), plain(flag), "{key} by flag");
        let config = read(&[], &[(&name, variable)], Some(&file)).unwrap();
        assert_eq!(shown(&config), plain(variable), "{key} by environment");
        let config = read(&[], &[(&name, "")], Some(&file)).unwrap();
        assert_eq!(shown(&config), plain(line), "{key} by file");
    }
    assert_eq!(read(&[], &[], None).unwrap(), Config::default());
}

#[test]
fn issuers_come_from_settings_wherever_they_stand() {
    let by_environment = read(
        &[],
        &[("CERTCTL_ACME_EMAIL", "a@x.test"), ("CERTCTL_ACME_TERMS_OF_SERVICE_AGREED", "true")],
        None,
    )
    .unwrap();
    let ids: Vec<_> = by_environment.issuers.iter().filter_map(|issuer| issuer.id.as_deref()).collect();
    assert_eq!(ids, ["iss-acme-prod", "iss-acme-staging"]);
    let table = "[acme]\nemail = \"a@x.test\"\nterms_of_service_agreed = true\n";
    assert_eq!(read(&[], &[], Some(table)).unwrap(), by_environment);
    let flags = [("acme_email", "a@x.test"), ("acme_terms_of_service_agreed", "true")];
    assert_eq!(read(&flags, &[], Some("acme_email = \"other@x.test\"")).unwrap(), by_environment);
    // A secret stays in the environment; in a file it is one to be sealed, and in no flag.
    let secret =
        read(&[], &[("CERTCTL_ACME_EAB_HMAC", "c2VjcmV0"), ("CERTCTL_ACME_EAB_KID", "k")], None).unwrap();
    assert_eq!(secret.issuers[0].config["eab_hmac"]["env"], "CERTCTL_ACME_EAB_HMAC");
    let secret = read(&[], &[], Some("acme_eab_hmac = \"c2VjcmV0\"\nacme_eab_kid = \"k\"")).unwrap();
    assert_eq!(secret.issuers[0].config["eab_hmac"], "c2VjcmV0");
    let all = settings(&certctl_server::connectors());
    let hmac = all.iter().find(|setting| setting.key == "acme_eab_hmac").unwrap();
    assert_eq!(hmac.flag(), None);
    assert!(all.iter().all(|setting| !setting.doc.is_empty()), "{all:?}");
}

#[test]
fn what_nobody_knows_stops_the_start_and_is_named() {
    let error =
        read(&[], &[("CERTCTL_LISTENN", "x"), ("CERTCTL_ACME_EMIAL", "x"), ("PATH", "x")], None).unwrap_err();
    assert_eq!(places(&error), ["CERTCTL_LISTENN", "CERTCTL_ACME_EMIAL"]);
    assert!(error.violations()[0].remedy.contains("CERTCTL_LISTEN"), "{error}");
    let error = read(&[], &[], Some("listne = \"x\"\n[acme]\nmail = 1\n")).unwrap_err();
    assert_eq!(places(&error).len(), 2);
    assert!(places(&error).iter().all(|place| place.contains("certctl.toml")), "{error}");
    let error = read(&[], &[], Some("listen = ")).unwrap_err();
    assert!(error.to_string().contains("line 1"), "{error}");
    // Other programs' names are no mistake here.
    let others: Vec<_> = OTHERS.iter().map(|name| (*name, "x")).collect();
    assert!(read(&[], &others, None).is_ok());
    assert!(read(&[], &[("CERTCTL_AGENT_PARALLEL", "2"), ("CERTCTL_TEST_REQUIRE_PEERS", "1")], None).is_ok());
}

#[test]
fn values_that_are_none_are_named_by_where_they_stand() {
    let error = read(
        &[("listen", "here")],
        &[("CERTCTL_MAX_CONNECTIONS", "0"), ("CERTCTL_SERVER_NAMES", "a..b,ok.test")],
        Some("log_level = \"a=b=c\"\nrenewal_concurrency = \"many\"\nshutdown_timeout = \"soon\""),
    )
    .unwrap_err();
    let places = places(&error);
    assert_eq!(places.len(), 6, "{error}");
    for place in ["--listen", "CERTCTL_MAX_CONNECTIONS", "CERTCTL_SERVER_NAMES"] {
        assert!(places.contains(&place), "{places:?}");
    }
    for key in ["log_level in ", "renewal_concurrency in ", "shutdown_timeout in "] {
        assert!(places.iter().any(|place| place.starts_with(key)), "{places:?}");
    }
    for url in ["postgres://u:hush@db/x", "mysql://hush", "sqlite:", "sqlite::memory:"] {
        let error = read(&[], &[("CERTCTL_DATABASE_URL", url)], None).unwrap_err();
        assert_eq!(error.violations()[0].pointer, "CERTCTL_DATABASE_URL");
        assert!(!format!("{error:?}").contains("hush"), "{error:?}");
    }
    // What contradicts itself is the connector's to say, by the setting's name.
    let error = read(&[], &[("CERTCTL_ACME_EAB_KID", "k")], None).unwrap_err();
    assert!(
        error.violations().iter().all(|violation| violation.pointer.starts_with("CERTCTL_ACME_EAB")),
        "{error}"
    );
    let missing =
        Settings::gather(&certctl_server::connectors(), [], [], Some(Path::new("/nowhere/certctl.toml")));
    assert!(missing.unwrap_err().message().contains("/nowhere/certctl.toml"));
}

#[test]
fn a_reload_says_what_needs_a_restart() {
    let connectors = certctl_server::connectors();
    let gather = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Settings::gather(&connectors, pairs.collect::<Vec<_>>(), [], None).unwrap()
    };
    let before = gather(&[("listen", "127.0.0.1:1"), ("log_level", "info")]);
    let after = gather(&[("listen", "127.0.0.1:2"), ("log_level", "debug"), ("server_names", "a.test")]);
    let changed = after.changed(&before, &connectors);
    let expected = [("listen", false), ("server_names", true), ("log_level", true)];
    assert_eq!(changed, expected.map(|(key, at_once)| (key.to_owned(), at_once)));
    assert_eq!(after.changed(&after, &connectors), []);
}
