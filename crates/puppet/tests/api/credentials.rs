//! The credentials, field by field.

use rcgen::KeyPair;
use secrecy::SecretString;
use stagedoor_puppet::{Credentials, CredentialsError};

use crate::pki::{OWN_NAME, PKI, TOKEN};

fn field_of(error: &CredentialsError) -> &str {
    match error {
        CredentialsError::Missing(field) | CredentialsError::Malformed { field, .. } => field,
        _ => "",
    }
}

#[test]
fn good_credentials_tell_the_controllers_own_name_and_expiry() {
    let transport = PKI.credentials().transport().unwrap();
    assert_eq!(transport.certname().as_str(), OWN_NAME);
    assert_eq!(transport.not_after().to_string(), "4096-01-01T00:00:00Z");
}

#[test]
fn an_unusable_field_is_named_and_its_value_is_not() {
    type Spoil = fn(&mut Credentials);
    let table: [(&str, Spoil); 13] = [
        ("ca_cert", |c| c.ca_cert = "SECRET-ish".into()),
        ("ca_cert", |c| c.ca_cert = "-----BEGIN CERTIFICATE-----\nSECRET\n".into()),
        ("ca_cert", |c| c.ca_cert = "-----BEGIN CERTIFICATE-----\nU0VDUkVU\n-----END CERTIFICATE-----\n".into()),
        ("client_cert", |c| c.client_cert = String::new()),
        ("client_cert", |c| c.client_cert = PKI.ca.pem()),
        ("client_cert", |c| c.client_cert += &PKI.client.key.serialize_pem()),
        ("client_key", |c| c.client_key = "SECRET".into()),
        ("client_key", |c| c.client_key = PKI.client.key.serialize_pem().repeat(2).into()),
        ("client_key", |c| c.client_key = c.client_cert.clone().into()),
        ("client_key", |c| {
            c.client_key = "-----BEGIN PRIVATE KEY-----\nU0VDUkVU\n-----END PRIVATE KEY-----\n".into();
        }),
        ("client_key", |c| c.client_key = KeyPair::generate().unwrap().serialize_pem().into()),
        ("rbac_token", |c| c.rbac_token = Some("SECRET\ntoken".into())),
        ("rbac_token", |c| c.rbac_token = Some("SECRETé".into())),
    ];
    for (field, spoil) in table {
        let mut credentials = PKI.credentials();
        spoil(&mut credentials);
        let error = credentials.transport().unwrap_err();
        assert_eq!(field_of(&error), field, "{error}");
        assert!(!error.to_string().contains("SECRET") && !format!("{error:?}").contains("SECRET"));
    }
}

#[test]
fn a_key_of_another_certificate_is_said_to_be_so() {
    let mut credentials = PKI.credentials();
    credentials.client_key = KeyPair::generate().unwrap().serialize_pem().into();
    let error = credentials.transport().unwrap_err().to_string();
    assert!(error.contains("does not belong to the certificate"), "{error}");
}

#[test]
fn the_secrets_json_may_hold_more_but_not_less() {
    let pem = PKI.credentials();
    let json = |key: &str, value: serde_json::Value| {
        let mut document = serde_json::json!({
            "ca_cert": pem.ca_cert, "client_cert": pem.client_cert,
            "client_key": PKI.client.key.serialize_pem(), "challenge": "c", "rbac_token": null,
        });
        document[key] = value;
        Credentials::from_json(&SecretString::from(document.to_string()))
    };
    assert!(json("challenge", "SECRET".into()).unwrap().transport().is_ok());
    assert!(json("rbac_token", TOKEN.into()).unwrap().rbac_token.is_some());
    for (previous, is_there) in [("p", true), ("", false)] {
        let read = json("previous_challenge", previous.into()).unwrap();
        assert_eq!(
            read.previous_challenge.is_some(),
            is_there,
            "an empty one would let any request pass: {previous:?}"
        );
    }
    assert!(json("previous_challenge", serde_json::json!(["SECRET"])).is_err());
    let error = json("challenge", "".into()).unwrap_err();
    assert_eq!(field_of(&error), "challenge", "an empty one would let any request pass");
    for field in ["ca_cert", "client_cert", "client_key"] {
        let missing = json(field, serde_json::Value::Null).unwrap_err();
        assert_eq!(missing, CredentialsError::Missing(field));
        let error = json(field, serde_json::json!(["SECRET"])).unwrap_err();
        assert_eq!(field_of(&error), field);
        assert!(!error.to_string().contains("SECRET"));
    }
}

#[test]
fn a_previous_challenge_without_a_challenge_is_refused() {
    let json =
        r#"{"ca_cert": "", "client_cert": "", "client_key": "", "challenge": null, "previous_challenge": "SECRET"}"#;
    let error = Credentials::from_json(&SecretString::from(json)).unwrap_err();
    assert_eq!(field_of(&error), "previous_challenge");
    assert!(!error.to_string().contains("SECRET"));
}

#[test]
fn a_secret_that_is_no_json_object_is_not_quoted() {
    for text in ["SECRET", "\"SECRET\"", "[\"SECRET\"]", "{\"client_key\": SECRET}"] {
        let error = Credentials::from_json(&SecretString::from(text)).unwrap_err();
        assert_eq!(error, CredentialsError::NotAnObject);
        assert!(!error.to_string().contains("SECRET"));
    }
}
