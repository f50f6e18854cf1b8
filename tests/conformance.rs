//! The clients' view of Puppet, written down once and held against both the lab and real servers.
//!
//! Whatever an assertion here says is true of real Puppet Server and PuppetDB, so that the lab cannot drift into fiction.
//! With the feature `live` the same assertions run against the servers of `tests/live/stage`. Where releases differ, the
//! assertion says which release does what, and the lab plays each of them.
//!
//! Every assertion works under names that were never used before: real servers keep what earlier runs left there.

pub(crate) mod apply;
mod certificates;
mod cleaning;
mod deactivating;
mod keys;
mod nodes;
mod permissions;
mod reporting;
mod requests;
mod runs;
mod signing;
pub(crate) mod site;
mod status;
mod tls;

/// Makes a test of each assertion for each site. One that is not listed is an unused function, which fails the build.
macro_rules! hold {
    (@at $(#[$condition:meta])* $place:ident, $site:expr, $($module:ident: $($assertion:ident),+;)+) => {
        $(#[$condition])*
        mod $place {
            $(mod $module {$(
                #[tokio::test]
                async fn $assertion() {
                    let site = super::site().await;
                    crate::conformance::$module::$assertion(&site).await;
                }
            )+})+

            async fn site() -> crate::conformance::site::Site {
                #[allow(unused_imports, reason = "the real servers have the release that they have")]
                use crate::conformance::site::{Release, Site};
                $site.await
            }
        }
    };
    ($($module:ident: $($assertion:ident),+ $(,)?;)+) => {
        hold! { @at on_the_lab_as_puppet_7, Site::lab(Release::SEVEN), $($module: $($assertion),+;)+ }
        hold! { @at on_the_lab_as_puppet_8, Site::lab(Release::EIGHT), $($module: $($assertion),+;)+ }
        hold! { @at #[cfg(feature = "live")] on_real_puppet, Site::real(), $($module: $($assertion),+;)+ }
    };
}

hold! {
    certificates:
        a_certificate_says_what_its_request_said,
        a_revoked_certificate_can_still_be_read,
        status_and_certificate_agree,
        the_status_of_an_unknown_name_is_none,
        an_unknown_certificate_is_none,
        statuses_lists_every_name_in_its_state,
        the_list_of_requests_names_them_and_no_certificate,
        the_names_of_signed_certificates_are_listed,
        statuses_leaves_out_a_name_that_was_cleaned,
        a_certificate_is_valid_from_a_day_before_it_was_issued,
        the_name_ca_means_the_cas_own_certificate,
        the_crls_are_one_for_each_certificate_of_the_chain,
        expirations_are_those_of_the_chain,
        the_version_is_the_servers;
    requests:
        a_request_says_what_the_agent_wrote,
        a_request_shows_every_extension_that_it_asks_for,
        an_unknown_request_is_none,
        a_pending_request_has_a_status_without_serial,
        deleting_a_request_leaves_nothing_and_twice_is_done_already,
        deleting_a_request_where_there_is_a_certificate_leaves_that,
        a_deleted_request_may_be_sent_again,
        a_second_request_of_a_name_is_refused,
        a_request_under_a_certificates_name_is_refused,
        a_request_in_another_name_is_refused,
        a_request_that_is_none_is_an_error_of_the_server;
    signing:
        signing_a_request_makes_a_certificate,
        signing_twice_says_already_signed,
        signing_without_a_request_says_so,
        signing_a_revoked_name_says_there_is_no_request,
        alternative_names_are_signed_where_allowed,
        authorization_extensions_are_signed_where_allowed_and_shown_in_the_status,
        the_right_to_administer_the_ca_is_never_signed,
        a_foreign_extension_is_not_signed,
        a_request_that_is_not_signed_stays,
        signing_a_set_says_of_each_name_what_signing_it_alone_would;
    keys:
        a_request_with_any_kind_of_key_is_verified_signed_and_recognised_in_its_certificate,
        a_certificate_with_any_kind_of_key_is_accepted_in_tls;
    cleaning:
        revoking_twice_answers_done_both_times,
        revoking_puts_the_serial_into_the_crl,
        revoking_an_unknown_name_is_done_already,
        revoking_a_mere_request_is_done_already_and_leaves_it,
        deleting_removes_the_certificate_and_revokes_nothing,
        deleting_removes_a_mere_request,
        deleting_an_unknown_name_is_done_already,
        cleaning_revokes_and_deletes,
        cleaning_tells_the_names_it_does_not_know,
        cleaning_twice_does_nothing_the_second_time,
        cleaning_nothing_calls_nobody,
        cleaning_many_leaves_the_others_alone,
        cleaning_a_mere_request_finds_nothing_and_leaves_it,
        a_revocation_is_found_in_the_crl_however_soon_it_is_asked_for_again,
        a_cleaned_name_may_be_enrolled_again_with_a_new_serial;
    nodes:
        an_unknown_node_is_none,
        a_node_that_reported_is_active,
        a_node_with_facts_alone_has_no_report,
        nodes_leaves_out_unknown_names_and_shows_deactivated_ones,
        many_names_are_asked_in_one_call,
        identities_tell_certificate_and_facts_apart,
        identities_of_a_deactivated_node_are_still_told,
        an_instance_is_found_by_certificate_and_by_fact,
        a_query_hides_deactivated_nodes_unless_asked,
        text_in_a_query_stays_text,
        a_query_that_cannot_be_read_is_refused,
        the_newest_report_can_be_asked_for,
        the_newest_reports_of_a_set_are_those_of_its_active_nodes,
        the_newest_report_of_a_node_that_came_back_is_told,
        the_facts_of_a_set_are_asked_for_by_name,
        nodes_of_another_account_or_region_are_left_out_by_the_query,
        the_names_of_active_nodes_are_listed,
        the_server_tells_its_time_and_version;
    runs:
        a_catalog_is_told_as_soon_as_it_is_stored_and_only_the_newest_by_its_producer,
        the_catalogs_of_a_set_are_those_of_its_active_nodes,
        a_report_tells_its_catalog_and_how_long_its_parts_took,
        a_run_without_a_catalog_and_one_with_a_cached_one_are_told_apart,
        runs_are_found_by_the_time_at_which_they_were_received;
    deactivating:
        a_known_node_is_deactivated_and_stays_known,
        deactivating_again_moves_the_time_forward_only,
        deactivating_an_unknown_name_makes_a_phantom,
        a_deactivation_older_than_the_data_is_dropped_as_if_done,
        a_later_report_brings_the_node_back,
        later_facts_and_catalogs_bring_the_node_back,
        an_older_report_does_not_bring_the_node_back;
    permissions:
        an_outsider_may_not_administer_the_ca,
        an_outsider_may_read_what_everyone_may,
        an_outsider_may_not_use_puppetdb,
        a_stranger_without_certificate_reads_what_agents_need_and_no_status,
        puppetdb_refuses_a_stranger_without_certificate,
        a_token_is_ignored_where_there_is_no_rbac;
    status:
        both_services_say_that_they_run,
        each_service_tells_its_state_and_version,
        a_service_that_is_not_there_is_none,
        a_node_is_asked_at_its_address_and_known_by_its_certificate,
        a_node_where_nobody_listens_is_unreachable_and_that_is_an_answer;
    tls:
        a_revoked_certificate_is_refused_in_tls,
        puppetdb_does_not_look_at_the_crl,
        a_bundle_of_another_ca_is_refused_by_the_client,
        a_certificate_of_another_ca_is_refused_by_the_server,
        nobody_listening_is_unreachable,
        a_connection_is_used_again;
}
