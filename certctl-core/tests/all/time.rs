//! Timestamps as text.

use certctl_core::Timestamp;

#[test]
fn rfc_3339_with_fractions_and_offsets() {
    for (text, millis) in [
        ("1970-01-01T00:00:00Z", 0),
        ("2016-01-05T14:09:07.99Z", 1_452_002_947_990),
        ("2016-01-05T16:09:07.990999999+02:00", 1_452_002_947_990),
        ("1969-12-31T23:59:59.999Z", -1),
        ("0000-01-01T00:00:00Z", -62_167_219_200_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ] {
        let time: Timestamp = text.parse().unwrap();
        assert_eq!(time.as_millis(), millis, "{text}");
        assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time, "{text}");
    }
}

#[test]
fn what_can_not_be_written_again_is_not_read() {
    for text in
        ["9999-12-31T23:59:59-00:01", "0000-01-01T00:00:00+00:01", "2016-01-05T14:09:07", "2016-01-05", ""]
    {
        text.parse::<Timestamp>().unwrap_err();
    }
}

#[test]
fn an_error_shows_foreign_text_cut() {
    let message = "x".repeat(100_000).parse::<Timestamp>().unwrap_err().to_string();
    assert!(message.len() < 500, "{}", message.len());
}
