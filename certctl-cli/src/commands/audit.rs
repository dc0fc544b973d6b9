//! `certctl audit`.

use certctl_client::types::AuditFilter;
use certctl_core::Result;
use clap::Args;

use super::Paging;
use crate::Session;

/// Which events.
#[derive(Args, Debug)]
pub struct AuditArgs {
    /// Only what was done so, such as certificate.created
    #[arg(long)]
    action: Option<String>,
    /// Only what was done to the record with this id
    #[arg(long, value_name = "ID")]
    resource: Option<String>,
    /// Which part of it.
    #[command(flatten)]
    paging: Paging,
}

pub(super) async fn run(args: AuditArgs, session: &mut Session<'_>) -> Result<()> {
    let filter = AuditFilter {
        action: args.action,
        resource: args.resource,
        limit: Some(args.paging.limit),
        cursor: args.paging.cursor.clone(),
    };
    let page = args.paging.fetch(session.client()?.audit(&filter)).await?;
    session.show_list(&page, &["AT", "WHO", "WHAT", "RESOURCE", "DETAILS"], |event| {
        let details = event.details.iter().map(|(name, value)| match value.as_str() {
            Some(text) => format!("{name}={text}"),
            None => format!("{name}={value}"),
        });
        [
            event.at.to_string(),
            event.actor.to_string(),
            event.action.to_string(),
            event.resource.to_string(),
            details.collect::<Vec<_>>().join(" "),
        ]
    })
}
