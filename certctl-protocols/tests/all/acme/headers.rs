//! Headers.

use certctl_core::Timestamp;
use certctl_protocols::acme::wire::headers::{Link, links, nonce, retry_after};

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = Timestamp::from_secs(1_000);
    assert_eq!(retry_after(" 120 ", now), Some(Timestamp::from_secs(1_120)));
    assert_eq!(retry_after("0", now), Some(now));
    let date = Some(Timestamp::from_secs(784_111_777));
    // RFC 9110 section 5.6.7.
    for text in
        ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
    {
        assert_eq!(retry_after(text, now), date, "{text}");
    }
    for bad in [
        "",
        " ",
        "-1",
        "+1",
        "1.5",
        "1e3",
        "0x10",
        "soon",
        "1 2",
        "1,2",
        "\u{661}",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "1994-11-06T08:49:37Z",
        "Thu, 01 Jan 1960 00:00:00 GMT",
    ] {
        assert_eq!(retry_after(bad, now), None, "{bad}");
    }
    assert_eq!(retry_after(&"9".repeat(1_000_000), now), None);
    // As far away as can be said, and no sum runs over.
    assert!(retry_after("9999999999999999999", now).unwrap() > Timestamp::from_secs(1_000_000_000_000));
}

#[test]
fn links_of_several_headers() {
    let values = [
        r#"<https://a.example/1?x=1,2;3>; title="a, \"b\"; c"; rel="alternate Next", </dir>;rel=index"#,
        r#"<https://a.example/2>;REL=alternate ; rel="up""#,
    ];
    let expected = [
        link("https://a.example/1?x=1,2;3", "alternate"),
        link("https://a.example/1?x=1,2;3", "next"),
        link("/dir", "index"),
        link("https://a.example/2", "alternate"),
    ];
    assert_eq!(links(values), expected);
}

/// RFC 8555 section 7.4.2, as servers write it.
#[test]
fn links_of_a_certificate() {
    let values = [
        "<https://example.com/acme/directory>;rel=\"index\"",
        "<https://example.com/acme/cert/mAt3xBGaobw/1>;rel=\"alternate\"",
        ",, <https://example.com/acme/cert/mAt3xBGaobw/2> ; rel = \"alternate\" ,",
    ];
    let alternates = links(values).into_iter().filter(|link| link.rel == "alternate").map(|link| link.url);
    assert_eq!(
        alternates.collect::<Vec<_>>(),
        ["https://example.com/acme/cert/mAt3xBGaobw/1", "https://example.com/acme/cert/mAt3xBGaobw/2"]
    );
}

#[test]
fn links_that_are_none() {
    for value in [
        "",
        "a",
        "<a",
        "<a>",
        "<a>; rel",
        "<a>; rel=",
        "<a>; rel=\"\"",
        "<a> rel=up",
        "<a>; rel=up; anchor=\"#x\"",
        "<a>; anchor=x; rel=up",
        "<a>; title=\"; rel=up",
        "<a>; title=\"\\",
        "<a>;;;;=;=",
        "<\u{fc}>; r\u{e9}l=up",
    ] {
        assert_eq!(links([value]), [], "{value}");
    }
    // What was read before it counts.
    assert_eq!(links(["<a>; rel=up, <b>; rel=next x <c>; rel=up"]).first(), Some(&link("a", "up")));
    assert_eq!(links(["<a>; rel=\"up", "<b>;rel=\"n\\ext\""]), [link("a", "up"), link("b", "next")]);
}

#[test]
fn links_are_limited() {
    let many = "<a>;rel=up,".repeat(1_000);
    assert_eq!(links([many.as_str(); 3]).len(), 100);
    assert_eq!(links([format!("<a>;rel=\"{}\"", "x ".repeat(1_000)).as_str()]).len(), 100);
    assert_eq!(links(["<a>;rel=up,".repeat(100_000).as_str()]), []);
}

#[test]
fn nonces_are_base64url() {
    assert_eq!(nonce(" oFvnlFP1wIhRlYS2jTaXbA "), Some("oFvnlFP1wIhRlYS2jTaXbA"));
    for bad in ["", " ", "a=", "a b", "a\r\nb", "a.b", "\u{fc}", &"a".repeat(1_025)] {
        assert_eq!(nonce(bad), None, "{bad}");
    }
}

fn link(url: &str, rel: &str) -> Link {
    Link { url: url.into(), rel: rel.into() }
}
