//! Sizes on the command line: what Linux's `memparse` gives for sound ones, and the exact words for the others.

use kspace_frames::parse_size;

#[test]
fn sound_sizes() {
    for (text, bytes) in [
        ("0", 0),
        ("4096", 4096),
        ("64K", 64 << 10),
        ("64m", 64 << 20),
        ("5G", 5 << 30),
        ("64T", 64 << 40),
        ("4p", 4 << 50),
        ("15E", 15 << 60),
        ("0x4000000", 64 << 20),
        ("0X10k", 16 << 10),
        ("18446744073709551615", u64::MAX),
    ] {
        assert_eq!(parse_size(text.as_bytes()), Ok(bytes), "{text}");
    }
}

#[test]
fn nonsense_is_named() {
    let suffixes = "is no suffix; the suffixes are K, M, G, T, P and E; write for example 64M";
    for (text, message) in [
        ("", "a size is missing; write for example 64M".into()),
        ("M", "\"M\" is not a size: it does not begin with a number; write for example 64M".into()),
        ("-1", "\"-1\" is not a size: it does not begin with a number; write for example 64M".into()),
        ("0x", "\"0x\" is not a size: it does not begin with a number; write for example 64M".into()),
        ("64Q", format!("\"64Q\" is not a size: \"Q\" {suffixes}")),
        ("64 M", format!("\"64 M\" is not a size: \" M\" {suffixes}")),
        ("1.5G", format!("\"1.5G\" is not a size: \".5G\" {suffixes}")),
        ("64MB", "\"64MB\" is not a size: \"B\" follows the suffix M; write for example 64M".into()),
        (
            "010M",
            "\"010M\" is not a size: leave out the leading zero, or write 0x for hexadecimal; \
             write for example 64M"
                .into(),
        ),
        ("16E", "\"16E\" is not a size: it does not fit in 64 bits; write for example 64M".into()),
        (
            "18446744073709551616",
            "\"18446744073709551616\" is not a size: it does not fit in 64 bits; write for example 64M".into(),
        ),
    ] {
        let error = parse_size(text.as_bytes()).expect_err(text);
        assert_eq!(error.to_string(), String::as_str(&message));
    }
}

#[test]
fn bytes_that_are_not_text_are_escaped() {
    assert_eq!(
        parse_size(b"1\xff\n").unwrap_err().to_string(),
        "\"1\\xff\\n\" is not a size: \"\\xff\\n\" is no suffix; the suffixes are K, M, G, T, P and E; \
         write for example 64M"
    );
}
