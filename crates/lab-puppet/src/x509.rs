//! X.509 as Puppet uses it: requests and certificates, their extensions and fingerprints. No I/O.

pub(crate) mod certificate;
pub(crate) mod oid;
pub(crate) mod request;

use jiff::Timestamp;
use x509_parser::time::ASN1Time;

/// One DER element: tag, length, content.
pub(crate) fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut element = vec![tag];
    if let Ok(short) = u8::try_from(length)
        && short < 0x80
    {
        element.push(short);
    } else {
        let bytes = length.to_be_bytes();
        let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
        element.push(0x80 | u8::try_from(bytes.len()).unwrap_or(8));
        element.extend_from_slice(bytes);
    }
    element.extend_from_slice(content);
    element
}

/// The text in an extension value: the DER string that current agents send, or the bare bytes that
/// very old ones did.
pub(crate) fn text(value: &[u8]) -> String {
    const UTF8: u8 = 0x0c;
    const PRINTABLE: u8 = 0x13;
    const IA5: u8 = 0x16;
    if let Some(tag) = value.first().copied()
        && matches!(tag, UTF8 | PRINTABLE | IA5)
        && let Ok((rest, any)) = x509_parser::der_parser::parse_der(value)
        && rest.is_empty()
        && let Ok(content) = any.as_slice()
    {
        return String::from_utf8_lossy(content).into_owned();
    }
    String::from_utf8_lossy(value).into_owned()
}

/// Whole seconds since 1970 as the time type of X.509 structures.
pub(crate) fn asn1(at: Timestamp) -> anyhow::Result<ASN1Time> {
    Ok(ASN1Time::from_timestamp(at.as_second())?)
}

/// Time as the CA's JSON prints it: the letters `UTC` in place of `Z`.
pub(crate) fn utc(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SUTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::{der, text};

    #[test]
    fn long_content_gets_a_long_length() {
        let long = der(0x0c, &[b'a'; 300]);
        assert_eq!(long[..4], [0x0c, 0x82, 0x01, 0x2c]);
        assert_eq!(text(&long), "a".repeat(300));
    }

    #[test]
    fn a_value_that_is_not_der_is_taken_as_text() {
        assert_eq!(text(b"i-0a1b2c3d4e5f60718"), "i-0a1b2c3d4e5f60718");
        assert_eq!(text(&der(0x13, b"compiler")), "compiler");
    }
}
