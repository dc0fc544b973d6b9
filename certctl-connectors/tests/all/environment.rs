//! Issuers out of a program's environment, under the seed's names.

use certctl_connectors::{connectors, environment};
use serde_json::json;

fn read(variables: &[(&str, &str)]) -> certctl_core::Result<Vec<certctl_core::IssuerSpec>> {
    environment::issuers(
        &connectors(),
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

#[test]
fn nothing_of_it_is_nothing() {
    assert!(read(&[]).unwrap().is_empty());
    assert!(read(&[("PATH", "/bin"), ("CERTCTL_ACME_EMAIL", " ")]).unwrap().is_empty());
    // The ACME server's own settings are not the client's.
    assert!(read(&[("CERTCTL_ACME_SERVER_ENABLED", "true")]).unwrap().is_empty());
}

#[test]
fn every_variable_sets_its_field() {
    let issuers = read(&[
        ("CERTCTL_ACME_DIRECTORY_URL", "https://acme.zerossl.com/v2/DV90"),
        ("CERTCTL_ACME_EMAIL", "admin@example.com"),
        ("CERTCTL_ACME_TERMS_OF_SERVICE_AGREED", "yes"),
        ("CERTCTL_ACME_EAB_KID", "kid-1"),
        ("CERTCTL_ACME_EAB_HMAC", "c2VjcmV0"),
        ("CERTCTL_ACME_CHALLENGE_TYPE", "dns-persist-01"),
        ("CERTCTL_ACME_HTTP_PORT", "8080"),
        ("CERTCTL_ACME_TLS_PORT", "8443"),
        ("CERTCTL_ACME_WEBROOT", "/var/www/html"),
        ("CERTCTL_ACME_DNS_PRESENT_SCRIPT", "/etc/certctl/dns/create-record.sh"),
        ("CERTCTL_ACME_DNS_CLEANUP_SCRIPT", "/etc/certctl/dns/delete-record.sh"),
        ("CERTCTL_ACME_DNS_SCRIPT_ENVIRONMENT", "CLOUD_TOKEN, CLOUD_ZONE"),
        ("CERTCTL_ACME_DNS_PROPAGATION_WAIT", "45"),
        ("CERTCTL_ACME_DNS_RESOLVERS", "192.0.2.1:53,[2001:db8::1]:53"),
        ("CERTCTL_ACME_DNS_PERSIST_ISSUER_DOMAIN", "zerossl.com"),
        ("CERTCTL_ACME_PROFILE", "tlsserver"),
        ("CERTCTL_ACME_PREFERRED_CHAIN", "Some Root"),
        ("CERTCTL_ACME_ARI_ENABLED", "false"),
        ("CERTCTL_ACME_CA_FILE", "/etc/ssl/private-root.pem"),
    ])
    .unwrap();
    assert_eq!(
        issuers.iter().map(|spec| spec.id.as_deref().unwrap()).collect::<Vec<_>>(),
        ["iss-acme-prod", "iss-acme-staging"]
    );
    let used: usize =
        environment::FAMILIES.iter().find(|family| family.kind == "acme").unwrap().variables.len();
    assert_eq!(issuers[0].config.as_object().unwrap().len(), used, "each variable has a field of its own");
    assert_eq!(
        issuers[0].config,
        json!({
            "directory_url": "https://acme.zerossl.com/v2/DV90",
            "email": "admin@example.com",
            "terms_of_service_agreed": true,
            "eab_kid": "kid-1",
            "eab_hmac": { "env": "CERTCTL_ACME_EAB_HMAC" },
            "challenge_type": "dns-persist-01",
            "http_port": 8080,
            "tls_port": 8443,
            "webroot": "/var/www/html",
            "dns_present_script": "/etc/certctl/dns/create-record.sh",
            "dns_cleanup_script": "/etc/certctl/dns/delete-record.sh",
            "dns_script_environment": ["CLOUD_TOKEN", "CLOUD_ZONE"],
            "dns_propagation_wait": "45",
            "dns_resolvers": ["192.0.2.1:53", "[2001:db8::1]:53"],
            "dns_persist_issuer_domain": "zerossl.com",
            "profile": "tlsserver",
            "preferred_chain": "Some Root",
            "ari_enabled": false,
            "ca_file": "/etc/ssl/private-root.pem",
        })
    );
    // What belongs to another CA does not go to Let's Encrypt's staging environment.
    let staging = &issuers[1].config;
    assert_eq!(staging["directory_url"], "https://acme-staging-v02.api.letsencrypt.org/directory");
    for field in ["eab_kid", "eab_hmac", "profile", "ca_file"] {
        assert!(staging.get(field).is_none(), "{field}: {staging}");
    }
    assert_eq!(staging["email"], "admin@example.com");
}

#[test]
fn the_default_is_lets_encrypt() {
    let issuers = read(&[("CERTCTL_ACME_EMAIL", "admin@example.com")]).unwrap();
    assert_eq!(issuers[0].config["directory_url"], "https://acme-v02.api.letsencrypt.org/directory");
    assert_eq!(issuers[0].name, "acme-prod");
    assert_eq!(issuers[1].config["directory_url"], "https://acme-staging-v02.api.letsencrypt.org/directory");
}

#[test]
fn all_that_is_wrong_is_said_by_the_variables_names() {
    let error = read(&[
        ("CERTCTL_ACME_DIRECTORY_URL", "http://acme.example.com/directory"),
        ("CERTCTL_ACME_EMIAL", "admin@example.com"),
        ("CERTCTL_ACME_ARI_ENABLED", "perhaps"),
        ("CERTCTL_ACME_HTTP_PORT", "eighty"),
        ("CERTCTL_ACME_EAB_HMAC", "hunter2"),
        ("CERTCTL_ACME_CHALLENGE_TYPE", "dns-01"),
        ("CERTCTL_ACME_DNS_PRESENT_SCRIPT", "create; rm -rf /"),
    ])
    .unwrap_err();
    let names: Vec<&str> = error.violations().iter().map(|violation| violation.pointer.as_str()).collect();
    for name in [
        "CERTCTL_ACME_DIRECTORY_URL",
        "CERTCTL_ACME_EMIAL",
        "CERTCTL_ACME_ARI_ENABLED",
        "CERTCTL_ACME_HTTP_PORT",
        "CERTCTL_ACME_EAB_KID",
        "CERTCTL_ACME_DNS_PRESENT_SCRIPT",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert!(!format!("{error:?}").contains("hunter2"));
}
