//! Puppet's registered certificate extensions: short names, OIDs and which arc allows what. No I/O.
//! (<https://www.puppet.com/docs/puppet/8/ssl_attributes_extensions.html>)

use anyhow::Context as _;

/// `ppRegCertExt`: plain trusted data.
pub(crate) const REGISTERED: &str = "1.3.6.1.4.1.34380.1.1.";
/// `ppPrivCertExt`: for private use, without names.
pub(crate) const PRIVATE: &str = "1.3.6.1.4.1.34380.1.2.";
/// `ppAuthCertExt`: extensions that authorization rules look at.
pub(crate) const AUTHORIZATION: &str = "1.3.6.1.4.1.34380.1.3.";
/// `pp_cli_auth`, the right to administer the CA. No CA signs it from a request.
pub(crate) const CLI_AUTH: &str = "1.3.6.1.4.1.34380.1.3.39";
/// Subject alternative names.
pub(crate) const ALT_NAMES: &str = "2.5.29.17";
const NAMES: &[(&str, &str)] = &[
    ("pp_uuid", "1.3.6.1.4.1.34380.1.1.1"),
    ("pp_instance_id", "1.3.6.1.4.1.34380.1.1.2"),
    ("pp_image_name", "1.3.6.1.4.1.34380.1.1.3"),
    ("pp_preshared_key", "1.3.6.1.4.1.34380.1.1.4"),
    ("pp_cost_center", "1.3.6.1.4.1.34380.1.1.5"),
    ("pp_product", "1.3.6.1.4.1.34380.1.1.6"),
    ("pp_project", "1.3.6.1.4.1.34380.1.1.7"),
    ("pp_application", "1.3.6.1.4.1.34380.1.1.8"),
    ("pp_service", "1.3.6.1.4.1.34380.1.1.9"),
    ("pp_employee", "1.3.6.1.4.1.34380.1.1.10"),
    ("pp_created_by", "1.3.6.1.4.1.34380.1.1.11"),
    ("pp_environment", "1.3.6.1.4.1.34380.1.1.12"),
    ("pp_role", "1.3.6.1.4.1.34380.1.1.13"),
    ("pp_software_version", "1.3.6.1.4.1.34380.1.1.14"),
    ("pp_department", "1.3.6.1.4.1.34380.1.1.15"),
    ("pp_cluster", "1.3.6.1.4.1.34380.1.1.16"),
    ("pp_provisioner", "1.3.6.1.4.1.34380.1.1.17"),
    ("pp_region", "1.3.6.1.4.1.34380.1.1.18"),
    ("pp_datacenter", "1.3.6.1.4.1.34380.1.1.19"),
    ("pp_zone", "1.3.6.1.4.1.34380.1.1.20"),
    ("pp_network", "1.3.6.1.4.1.34380.1.1.21"),
    ("pp_securitypolicy", "1.3.6.1.4.1.34380.1.1.22"),
    ("pp_cloudplatform", "1.3.6.1.4.1.34380.1.1.23"),
    ("pp_apptier", "1.3.6.1.4.1.34380.1.1.24"),
    ("pp_hostname", "1.3.6.1.4.1.34380.1.1.25"),
    ("pp_owner", "1.3.6.1.4.1.34380.1.1.26"),
    ("pp_authorization", "1.3.6.1.4.1.34380.1.3.1"),
    ("pp_auth_auto_renew", "1.3.6.1.4.1.34380.1.3.2"),
    ("pp_auth_role", "1.3.6.1.4.1.34380.1.3.13"),
    ("pp_cli_auth", CLI_AUTH),
];

/// The short name of an OID; the OID itself where none is registered, as in Puppet's trusted facts.
pub(crate) fn short_name(oid: &str) -> &str {
    NAMES.iter().find(|(_, known)| *known == oid).map_or(oid, |(name, _)| name)
}

/// The OID that a short name or a dotted number stands for.
pub(crate) fn resolve(name: &str) -> anyhow::Result<String> {
    if let Some((_, oid)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok((*oid).to_owned());
    }
    components(name)
        .map(|_| name.to_owned())
        .with_context(|| format!("`{name}` is neither a registered Puppet extension nor an OID"))
}

/// The numbers of a dotted OID.
pub(crate) fn components(dotted: &str) -> anyhow::Result<Vec<u64>> {
    let numbers = dotted
        .split('.')
        .map(str::parse)
        .collect::<Result<Vec<u64>, _>>()
        .with_context(|| format!("`{dotted}` is not an OID"))?;
    anyhow::ensure!(numbers.len() > 1, "`{dotted}` is not an OID");
    Ok(numbers)
}

/// Whether the CA copies this extension from a request into a certificate.
pub(crate) fn signable(oid: &str) -> bool {
    oid == ALT_NAMES
        || oid.starts_with(REGISTERED)
        || oid.starts_with(PRIVATE)
        || (oid.starts_with(AUTHORIZATION) && oid != CLI_AUTH)
}
