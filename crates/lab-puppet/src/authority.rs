//! The CA's identity: a root, an intermediate that signs, and what they sign. Real X.509, no I/O.

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName, DnType,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use crate::x509::certificate::{general_names, pem_block};
use crate::x509::request::{AltNames, Extension};
use crate::x509::{asn1, der, oid};

const ROOT_NAME: &str = "Puppet Root CA: 7a1e5";
const INTERMEDIATE_NAME: &str = "Puppet CA: puppet";
const DAY: SignedDuration = SignedDuration::from_hours(24);
const CA_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 365 * 15);
const CRL_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 365 * 5);

/// A CA certificate with its key.
struct Signer {
    name: &'static str,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    not_after: Timestamp,
}

/// Root and intermediate.
pub(crate) struct Authority {
    root: Signer,
    intermediate: Signer,
    /// The root's CRL never changes: it revokes nothing.
    root_crl: Crl,
    /// When this CA was made; the modification time of `ca_crt.pem`.
    pub(crate) made: Timestamp,
}

/// A signed list of revoked serials.
#[derive(Clone)]
pub(crate) struct Crl {
    pub(crate) der: CertificateRevocationListDer<'static>,
    pub(crate) next_update: Timestamp,
}

impl Crl {
    pub(crate) fn pem(&self) -> String {
        pem_block("X509 CRL", &self.der)
    }
}

/// What goes into a certificate.
pub(crate) struct Contents<'a> {
    pub(crate) serial: u64,
    pub(crate) certname: &'a str,
    /// The public key with its algorithm, DER.
    pub(crate) public_key: &'a [u8],
    /// Extensions of the request; alternative names among them are taken from `alt_names`.
    pub(crate) extensions: &'a [Extension],
    pub(crate) alt_names: &'a AltNames,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

impl Authority {
    /// Makes the keys and certificates of a new CA.
    pub(crate) fn new(now: Timestamp) -> anyhow::Result<Self> {
        let root = {
            let key = KeyPair::generate()?;
            let (params, not_after) = ca_params(ROOT_NAME, 1, now)?;
            let certificate = params.self_signed(&key)?.der().clone();
            Signer { name: ROOT_NAME, issuer: Issuer::new(params, key), certificate, not_after }
        };
        let intermediate = {
            let key = KeyPair::generate()?;
            let (mut params, not_after) = ca_params(INTERMEDIATE_NAME, 2, now)?;
            params.use_authority_key_identifier_extension = true;
            let certificate = params.signed_by(&key, &root.issuer)?.der().clone();
            Signer { name: INTERMEDIATE_NAME, issuer: Issuer::new(params, key), certificate, not_after }
        };
        let root_crl = crl(&root, &[], 0, now)?;
        Ok(Self { root, intermediate, root_crl, made: now })
    }

    /// Both certificates; any of them anchors trust, as agents send nothing but their own.
    pub(crate) fn certificates(&self) -> [CertificateDer<'static>; 2] {
        [self.intermediate.certificate.clone(), self.root.certificate.clone()]
    }

    /// `ca_crt.pem`: the signing certificate first.
    pub(crate) fn bundle_pem(&self) -> String {
        self.certificates().iter().map(|ca| pem_block("CERTIFICATE", ca)).collect()
    }

    /// CN and end of validity of each CA certificate.
    pub(crate) fn expirations(&self) -> [(&'static str, Timestamp); 2] {
        [&self.intermediate, &self.root].map(|ca| (ca.name, ca.not_after))
    }

    /// CN of the CA that signs certificates and the changing CRL.
    pub(crate) fn signing_name(&self) -> &'static str {
        self.intermediate.name
    }

    /// CN and CRL of the root.
    pub(crate) fn root_crl(&self) -> (&'static str, &Crl) {
        (self.root.name, &self.root_crl)
    }

    /// Signs a CRL with these serials and times of revocation.
    pub(crate) fn crl(&self, revoked: &[(u64, Timestamp)], number: u64, now: Timestamp) -> anyhow::Result<Crl> {
        crl(&self.intermediate, revoked, number, now)
    }

    /// Issues a certificate as Puppet Server does: its own fixed extensions, then those of the request.
    pub(crate) fn issue(&self, contents: &Contents<'_>) -> anyhow::Result<CertificateDer<'static>> {
        // serverAuth and clientAuth; rcgen would write this extension as not critical.
        const BOTH_USES: [u8; 22] =
            [0x30, 0x14, 0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 3, 1, 0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 3, 2];
        const IA5_STRING: u8 = 0x16;
        let public_key = SubjectPublicKeyInfo::from_der(contents.public_key)
            .context("the request's public key is of a kind that this CA cannot sign")?;
        let mut params = base_params(contents.certname, contents.serial)?;
        params.not_before = asn1(contents.not_before)?.to_datetime();
        params.not_after = asn1(contents.not_after)?.to_datetime();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let names = contents.alt_names.labelled();
        params.subject_alt_names = general_names(
            names.iter().map(|name| name.strip_prefix("DNS:").unwrap_or(name)).chain([contents.certname]),
        )?;
        let mut usage = CustomExtension::from_oid_content(&[2, 5, 29, 37], BOTH_USES.to_vec());
        usage.set_criticality(true);
        let comment = CustomExtension::from_oid_content(
            &[2, 16, 840, 1, 113_730, 1, 13],
            der(IA5_STRING, b"Puppet Server Internal Certificate"),
        );
        params.custom_extensions = vec![comment, usage];
        for extension in contents.extensions.iter().filter(|one| one.oid != oid::ALT_NAMES) {
            let oid = oid::components(&extension.oid)?;
            let mut copy = CustomExtension::from_oid_content(&oid, extension.value.clone());
            copy.set_criticality(extension.critical);
            params.custom_extensions.push(copy);
        }
        let certificate = params
            .signed_by(&public_key, &self.intermediate.issuer)
            .with_context(|| format!("could not issue a certificate for {}", contents.certname))?;
        Ok(certificate.der().clone())
    }
}

fn base_params(common_name: &str, serial: u64) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serial_number = Some(serial_number(serial));
    Ok(params)
}

fn ca_params(name: &str, serial: u64, now: Timestamp) -> anyhow::Result<(CertificateParams, Timestamp)> {
    let not_after = now + CA_LIFETIME;
    let mut params = base_params(name, serial)?;
    params.not_before = asn1(now - DAY)?.to_datetime();
    params.not_after = asn1(not_after)?.to_datetime();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((params, not_after))
}

fn crl(signer: &Signer, revoked: &[(u64, Timestamp)], number: u64, now: Timestamp) -> anyhow::Result<Crl> {
    let entry = |(serial, at): &(u64, Timestamp)| {
        anyhow::Ok(RevokedCertParams {
            serial_number: serial_number(*serial),
            revocation_time: asn1(*at)?.to_datetime(),
            reason_code: None,
            invalidity_date: None,
        })
    };
    let next_update = now + CRL_LIFETIME;
    let params = CertificateRevocationListParams {
        this_update: asn1(now - DAY)?.to_datetime(),
        next_update: asn1(next_update)?.to_datetime(),
        crl_number: serial_number(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect::<anyhow::Result<_>>()?,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(&signer.issuer).context("could not sign a CRL")?;
    Ok(Crl { der: list.der().clone(), next_update })
}

fn serial_number(serial: u64) -> SerialNumber {
    let bytes = serial.to_be_bytes();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(7);
    SerialNumber::from_slice(&bytes[zeros..])
}
