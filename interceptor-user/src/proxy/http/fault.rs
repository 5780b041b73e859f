//! Faults that a route injects (Envoy's fault filter): before the request is sent anywhere, it waits, is
//! answered here, or both in that order. The wait counts for the client only: the route's timeout begins
//! after it.

use super::log::RequestLog;
use super::reply::Reply;
use crate::proxy::upstream::random;
use crate::snapshot::Fault;

/// The reply that a request gets instead of being sent on.
pub(super) async fn inject(fault: &Fault, log: &mut RequestLog) -> Option<Reply> {
    if let Some((delay, share)) = fault.delay
        && share.takes(random())
    {
        log.delayed();
        tokio::time::sleep(delay).await;
    }
    let (status, share) = fault.abort?;
    share.takes(random()).then(|| Reply::fault(status))
}
