//! What the CA demands of a signing request, and the texts with which it refuses. No I/O.

use crate::options::PuppetOptions;
use crate::x509::oid;
use crate::x509::request::SigningRequest;

use super::Ca;

/// A name has at most one certificate or request, unless duplicates are allowed. Looks at the
/// request's own subject, before that is compared with the name in the URL.
pub(crate) fn check_duplicate(ca: &Ca, request: &SigningRequest, options: &PuppetOptions) -> Result<(), String> {
    let subject = &request.common_name;
    let state = match ca.signed.get(subject) {
        Some(issued) if ca.is_revoked(issued.serial) => "revoked",
        Some(_) => "signed",
        None if ca.requests.contains_key(subject) => "requested",
        None => return Ok(()),
    };
    if options.allow_duplicate_certs {
        return Ok(());
    }
    Err(format!("{subject} already has a {state} certificate; ignoring certificate request"))
}

/// The subject is the name in the URL and a name that Puppet takes.
pub(crate) fn check_subject(certname: &str, subject: &str) -> Result<(), String> {
    const BAD_FORMAT: &str = "Subject hostname format is invalid";
    if subject != certname {
        return Err(format!("Instance name \"{subject}\" does not match requested key \"{certname}\""));
    }
    if certname.chars().any(char::is_uppercase) {
        return Err("Certificate names must be lower case.".to_owned());
    }
    if subject.contains('*') {
        return Err(format!("Subject contains a wildcard, which is not allowed: {subject}"));
    }
    let starts_well = subject.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let in_set = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !starts_well || subject.ends_with('-') || !subject.chars().all(in_set) {
        return Err(BAD_FORMAT.to_owned());
    }
    Ok(())
}

/// The checks before a certificate is issued, in Puppet Server's order.
pub(crate) fn check_contents(request: &SigningRequest, options: &PuppetOptions) -> Result<(), String> {
    const RETRY: &str = "Then restart the puppetserver and try signing this certificate again.";
    let subject = &request.common_name;
    let own_name = format!("DNS:{subject}");
    let names = request.alt_names.labelled();
    if !options.allow_subject_alt_names && !names.is_empty() && names != [own_name.clone()] {
        let foreign: Vec<String> = names.into_iter().filter(|name| *name != own_name).collect();
        return Err(format!(
            "CSR '{subject}' contains extra subject alternative names ({}), which are disallowed. To allow \
             subject alternative names, set allow-subject-alt-names to true in your ca.conf file. {RETRY}",
            foreign.join(", ")
        ));
    }
    let authorizes = |oid: &str| oid.starts_with(oid::AUTHORIZATION);
    if !options.allow_authorization_extensions && request.extensions.iter().any(|extension| authorizes(&extension.oid))
    {
        return Err(format!(
            "CSR '{subject}' contains an authorization extension, which is disallowed. To allow \
             authorization extensions, set allow-authorization-extensions to true in your ca.conf file. {RETRY}"
        ));
    }
    let refused: Vec<&str> =
        request.extensions.iter().map(|extension| extension.oid.as_str()).filter(|oid| !oid::signable(oid)).collect();
    if !refused.is_empty() {
        return Err(format!("Found extensions that are not permitted: {}", refused.join(", ")));
    }
    if !request.signature_is_valid {
        return Err("CSR contains a public key that does not correspond to the signing key".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_subject;

    #[test]
    fn names_that_puppet_refuses_are_refused_with_its_words() {
        assert_eq!(check_subject("a-1.example.net", "a-1.example.net"), Ok(()));
        for (name, text) in [
            ("UP.example.net", "Certificate names must be lower case."),
            ("*.example.net", "Subject contains a wildcard, which is not allowed: *.example.net"),
            ("-a.example.net", "Subject hostname format is invalid"),
            ("a.example.net-", "Subject hostname format is invalid"),
            ("a b", "Subject hostname format is invalid"),
        ] {
            assert_eq!(check_subject(name, name), Err(text.to_owned()));
        }
        assert_eq!(check_subject("a", "b"), Err("Instance name \"b\" does not match requested key \"a\"".to_owned()));
    }
}
