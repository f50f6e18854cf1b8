//! Looks for serial numbers in CRLs as their bytes arrive, and keeps nothing else: a large CA's are megabytes. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use super::Revocations;
use crate::http::Sink;
use crate::x509::{Certificate, Serial};

/// The most bytes of a line of PEM, and of an element of a list other than the list itself.
const LONGEST: usize = 64 * 1024;

type Wanted = BTreeMap<Vec<u8>, BTreeSet<Serial>>;

/// Reads concatenated PEM lists (RFC 7468, section 6).
pub(crate) struct Reader {
    wanted: Wanted,
    found: Wanted,
    line: Vec<u8>,
    /// The list that has begun.
    list: Option<List>,
    lists: usize,
}

impl Reader {
    /// Looks for these certificates in the lists of their issuers.
    pub(crate) fn new(certificates: &[&Certificate]) -> Self {
        let mut wanted = Wanted::new();
        for certificate in certificates {
            wanted.entry(certificate.issuer().to_vec()).or_default().insert(certificate.serial().clone());
        }
        Self { wanted, found: Wanted::new(), line: Vec::new(), list: None, lists: 0 }
    }

    /// What was found, if the lists were whole.
    pub(crate) fn finish(mut self) -> Result<Revocations, String> {
        self.end_line()?;
        match (&self.list, self.lists) {
            (Some(_), _) => Err("the CRL has no end".to_owned()),
            (None, 0) => Err("it holds no PEM block".to_owned()),
            (None, _) => Ok(Revocations { asked: self.wanted, listed: self.found }),
        }
    }

    fn end_line(&mut self) -> Result<(), String> {
        let line = std::mem::take(&mut self.line);
        let text = line.trim_ascii();
        match (&mut self.list, text.strip_prefix(b"-----")) {
            (None, Some(b"BEGIN X509 CRL-----")) => self.list = Some(List::default()),
            (None, Some(begin)) if begin.starts_with(b"BEGIN ") => {
                return Err("its PEM block is of another kind".to_owned());
            }
            // What stands between the blocks is a comment.
            (None, _) => {}
            (Some(list), Some(b"END X509 CRL-----")) => {
                list.end()?;
                self.list = None;
                self.lists += 1;
            }
            (Some(_), Some(_)) => return Err("it is not well-formed PEM".to_owned()),
            (Some(list), None) => list.base64(text, &self.wanted, &mut self.found)?,
        }
        // The room is used for the next line.
        self.line = line;
        self.line.clear();
        Ok(())
    }
}

impl Sink for Reader {
    fn take(&mut self, chunk: &[u8]) -> Result<(), String> {
        for byte in chunk {
            match byte {
                b'\n' => self.end_line()?,
                _ if self.line.len() == LONGEST => return Err("a line of it is too long".to_owned()),
                _ => self.line.push(*byte),
            }
        }
        Ok(())
    }
}

/// One list: DER of `CertificateList` (RFC 5280, section 5.1).
#[derive(Default)]
struct List {
    /// Bits of base64 that are not a whole byte yet.
    bits: u32,
    count: u32,
    /// Bytes that are not a whole element yet.
    pending: Vec<u8>,
    stage: Stage,
    /// How much of the whole list comes after `tbsCertList`, how much of that comes after this stage, and how much of
    /// `revokedCertificates` is left.
    after: usize,
    tbs: usize,
    entries: usize,
    /// The sequences and dates before `revokedCertificates`: algorithm and issuer, then `thisUpdate`.
    sequences: u8,
    dated: bool,
    issuer: Vec<u8>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Stage {
    #[default]
    Outer,
    Tbs,
    Fields,
    Entries,
    Rest,
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

fn bad() -> String {
    "it is not DER of a CRL".to_owned()
}

impl List {
    fn base64(&mut self, text: &[u8], wanted: &Wanted, found: &mut Wanted) -> Result<(), String> {
        for byte in text {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'=' => continue,
                _ => return Err("it is not well-formed PEM".to_owned()),
            };
            self.bits = self.bits << 6 | u32::from(value);
            self.count += 6;
            if self.count >= 8 {
                self.count -= 8;
                self.pending.push((self.bits >> self.count).to_le_bytes()[0]);
                self.bits &= (1 << self.count) - 1;
            }
        }
        while self.step(wanted, found)? {}
        Ok(())
    }

    /// Reads the next element, if all that is needed of it is there.
    fn step(&mut self, wanted: &Wanted, found: &mut Wanted) -> Result<bool, String> {
        match self.stage {
            Stage::Fields if self.tbs == 0 => self.stage = Stage::Rest,
            Stage::Entries if self.entries == 0 => self.stage = Stage::Fields,
            Stage::Rest => {
                let skipped = self.pending.len();
                self.after = self.after.checked_sub(skipped).ok_or_else(bad)?;
                self.pending.clear();
                return Ok(false);
            }
            _ => {
                let Some(Element { tag, header, content }) = Element::read(&self.pending)? else { return Ok(false) };
                let whole = header.checked_add(content).ok_or_else(bad)?;
                let is_list = self.stage == Stage::Fields && tag == SEQUENCE && self.dated;
                let used = match self.stage {
                    Stage::Outer | Stage::Tbs => header,
                    _ if is_list => header,
                    _ => whole,
                };
                if used > LONGEST || (tag != SEQUENCE && self.stage != Stage::Fields) {
                    return Err(bad());
                }
                let Some(element) = self.pending.get(..used) else { return Ok(false) };
                match self.stage {
                    Stage::Outer => (self.after, self.stage) = (content, Stage::Tbs),
                    Stage::Tbs => {
                        self.after = self.after.checked_sub(whole).ok_or_else(bad)?;
                        (self.tbs, self.stage) = (content, Stage::Fields);
                    }
                    Stage::Fields => {
                        self.tbs = self.tbs.checked_sub(whole).ok_or_else(bad)?;
                        match tag {
                            _ if is_list => (self.entries, self.stage) = (content, Stage::Entries),
                            SEQUENCE => {
                                self.sequences += 1;
                                self.issuer = element.to_vec();
                            }
                            UTC_TIME | GENERALIZED_TIME => self.dated = self.sequences == 2,
                            _ => {}
                        }
                    }
                    Stage::Entries | Stage::Rest => {
                        self.entries = self.entries.checked_sub(whole).ok_or_else(bad)?;
                        let entry = element.get(header..).unwrap_or_default();
                        let serial = Element::read(entry)?.filter(|serial| serial.tag == INTEGER).ok_or_else(bad)?;
                        let end = serial.header.checked_add(serial.content).ok_or_else(bad)?;
                        let serial = Serial::from_be_bytes(entry.get(serial.header..end).ok_or_else(bad)?);
                        if wanted.get(&self.issuer).is_some_and(|wanted| wanted.contains(&serial)) {
                            found.entry(self.issuer.clone()).or_default().insert(serial);
                        }
                    }
                }
                if self.sequences > 2 {
                    return Err(bad());
                }
                self.pending.drain(..used);
            }
        }
        Ok(true)
    }

    /// Whether the list was whole.
    fn end(&self) -> Result<(), String> {
        let whole = self.stage == Stage::Rest && self.after == 0 && self.pending.is_empty() && self.sequences == 2;
        if whole && self.dated { Ok(()) } else { Err(bad()) }
    }
}

/// The beginning of a DER element.
struct Element {
    tag: u8,
    header: usize,
    content: usize,
}

impl Element {
    /// `None` if more bytes are needed.
    fn read(bytes: &[u8]) -> Result<Option<Self>, String> {
        let [tag, first, rest @ ..] = bytes else { return Ok(None) };
        if *first < 0x80 {
            return Ok(Some(Self { tag: *tag, header: 2, content: usize::from(*first) }));
        }
        let count = usize::from(first & 0x7f);
        if !(1..=4).contains(&count) {
            return Err(bad());
        }
        let Some(length) = rest.get(..count) else { return Ok(None) };
        let content = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        Ok(Some(Self { tag: *tag, header: 2 + count, content }))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
        KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
    };

    use super::*;
    use crate::crl::RevocationLists;

    struct Authority {
        issuer: Issuer<'static, KeyPair>,
    }

    impl Authority {
        fn new(name: &str) -> Self {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::CrlSign, KeyUsagePurpose::KeyCertSign];
            Self { issuer: Issuer::new(params, KeyPair::generate().unwrap()) }
        }

        fn certificate(&self, serial: u64) -> Certificate {
            let mut params = CertificateParams::default();
            params.serial_number = Some(SerialNumber::from(serial));
            let made = params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap();
            Certificate::from_pem(&made.pem()).unwrap()
        }

        fn crl(&self, serials: impl Iterator<Item = u64>) -> String {
            let revoked = |serial| RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2026, 1, 2),
                reason_code: None,
                invalidity_date: None,
            };
            let params = CertificateRevocationListParams {
                this_update: date_time_ymd(2026, 1, 2),
                next_update: date_time_ymd(2031, 1, 2),
                crl_number: SerialNumber::from(7),
                issuing_distribution_point: None,
                revoked_certs: serials.map(revoked).collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            params.signed_by(&self.issuer).unwrap().pem().unwrap()
        }
    }

    fn read(pem: &str, size: usize, certificates: &[&Certificate]) -> Result<Revocations, String> {
        let mut reader = Reader::new(certificates);
        pem.as_bytes().chunks(size).try_for_each(|chunk| reader.take(chunk))?;
        reader.finish()
    }

    #[test]
    fn a_list_that_arrives_in_pieces_says_what_the_whole_list_says() {
        let (ca, root) = (Authority::new("Puppet CA"), Authority::new("Puppet Root CA"));
        let certificates: Vec<Certificate> = [1, 2, 127, 128, 300, 70_000].map(|serial| ca.certificate(serial)).into();
        let of_the_root = root.certificate(2);
        for serials in [vec![], vec![2], vec![128, 70_000], (1..300).collect(), (1..70_001).step_by(3).collect()] {
            let pem = ca.crl(serials.into_iter()) + &root.crl([300].into_iter());
            let whole = RevocationLists::from_pem(&pem).unwrap();
            let mut asked: Vec<&Certificate> = certificates.iter().collect();
            asked.push(&of_the_root);
            for size in [1, 7, 64, 8192, pem.len()] {
                let found = read(&pem, size, &asked).unwrap();
                for certificate in &asked {
                    assert_eq!(
                        found.revokes(certificate),
                        Some(whole.revokes(certificate)),
                        "{}",
                        certificate.serial()
                    );
                }
            }
        }
    }

    #[test]
    fn a_certificate_that_was_not_looked_for_is_not_said_to_be_unlisted() {
        let ca = Authority::new("Puppet CA");
        let found = read(&ca.crl([1].into_iter()), 100, &[&ca.certificate(2)]).unwrap();
        assert_eq!(found.revokes(&ca.certificate(2)), Some(false));
        assert_eq!(found.revokes(&ca.certificate(1)), None);
    }

    #[test]
    fn a_list_that_is_not_whole_says_nothing() {
        let ca = Authority::new("Puppet CA");
        let (pem, asked) = (ca.crl(1..200), ca.certificate(500));
        let lines: Vec<&str> = pem.lines().collect();
        for end in 0..lines.len() {
            assert!(read(&lines[..end].join("\n"), 100, &[&asked]).is_err(), "{end} lines");
        }
        for missing in 1..lines.len() - 1 {
            let mut damaged = lines.clone();
            damaged.remove(missing);
            assert!(read(&damaged.join("\n"), 100, &[&asked]).is_err(), "without line {missing}");
        }
        for other in ["", "<html>", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"] {
            assert!(read(other, 100, &[&asked]).is_err(), "{other}");
        }
    }

    #[test]
    fn a_damaged_byte_never_causes_a_panic() {
        let ca = Authority::new("Puppet CA");
        let (pem, asked) = (ca.crl(1..4), ca.certificate(1));
        let body = pem.find('\n').unwrap() + 1;
        for at in body..pem.len() - 30 {
            let mut damaged = pem.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'/' } else { b'A' };
            // What the signature covers is not checked here: TLS vouches for the CA.
            let _ = read(&String::from_utf8(damaged).unwrap(), 64, &[&asked]);
        }
    }
}
