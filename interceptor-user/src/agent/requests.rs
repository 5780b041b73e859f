//! What is asked of the control loop: by the CNI plugin, and by a successor.

use std::path::Path;

use tokio::sync::oneshot;

use super::control::Control;
use crate::admin::{AdminRequest, CniCommand, CniRefusal, CniRequest};
use crate::enroll::{PodNetns, Selection};

/// A CNI plugin that waits for a pod.
pub(super) struct Waiting {
    pub(super) uid: std::sync::Arc<str>,
    pub(super) answer: oneshot::Sender<Result<(), CniRefusal>>,
}

impl Control {
    pub(super) fn take_request(&mut self, request: AdminRequest) {
        match request {
            AdminRequest::Retire(answer) => {
                tracing::info!("another agent takes over; what is open here may end");
                self.retire();
                // It may have given up.
                let _gone = answer.send(()).is_err();
            }
            AdminRequest::Cni(request, answer) => match self.cni(&request) {
                Step::Answer(outcome) => drop(answer.send(outcome)),
                Step::Wait(uid) => self.waiting.push(Waiting { uid, answer }),
            },
        }
    }

    fn cni(&mut self, request: &CniRequest) -> Step {
        let refuse = |why: String, ask_again| Step::Answer(Err(CniRefusal { why, ask_again }));
        let name = format!("{}/{}", request.namespace, request.name);
        if self.is_retired() {
            return refuse("another agent is taking over".to_owned(), true);
        }
        let found = self.pods.iter_mut().find(|(uid, pod)| match &*request.uid {
            // Of several with one name the API knows one: the others are still being taken down.
            "" => {
                pod.api.is_some()
                    && pod.source.namespace == request.namespace
                    && pod.source.pod == request.name
            }
            asked => ***uid == *asked,
        });
        let Some((uid, pod)) = found else {
            return match request.command {
                CniCommand::Del => Step::Answer(Ok(())),
                CniCommand::Add | CniCommand::Check => {
                    refuse(format!("nobody has told of pod {name} yet"), true)
                }
            };
        };
        let uid = uid.clone();
        match (&pod.selection, request.command) {
            (_, CniCommand::Del) => {
                pod.announced = None;
                pod.retry.now();
                Step::Answer(Ok(()))
            }
            (Selection::LeaveAlone(_) | Selection::OutOfReach(_), _) => Step::Answer(Ok(())),
            (Selection::Enroll(_), CniCommand::Check) if pod.carried.is_some() => Step::Answer(Ok(())),
            (Selection::Enroll(_), CniCommand::Check) => {
                refuse(format!("pod {name} should be enrolled and is not"), false)
            }
            (Selection::Enroll(_), CniCommand::Add) => {
                match PodNetns::open(Path::new(&request.netns)) {
                    Ok(netns) if netns.is_of(&self.host) => {
                        return refuse(
                            format!("{} is the node's own network namespace", request.netns),
                            false,
                        );
                    }
                    Ok(netns) => pod.announced = Some(netns),
                    Err(error) => {
                        return refuse(
                            format!("can't open the network namespace {}: {error}", request.netns),
                            false,
                        );
                    }
                }
                pod.retry.now();
                Step::Wait(uid)
            }
        }
    }

    /// Answers those whose pods are carried now, or can't be.
    pub(super) fn answer_waiting(&mut self) {
        for Waiting { uid, answer } in std::mem::take(&mut self.waiting) {
            let Some(pod) = self.pods.get(&uid) else { continue };
            let announced = pod.announced.as_ref();
            let is_carried = pod
                .carried
                .as_ref()
                .is_some_and(|carried| announced.is_none_or(|announced| carried.netns == *announced));
            let outcome = match (&pod.problem, is_carried) {
                // Or it is none of ours any more.
                (_, true) => Ok(()),
                _ if pod.wanted().is_none() => Ok(()),
                (Some(problem), false) => Err(CniRefusal { why: problem.clone(), ask_again: true }),
                (None, false) if answer.is_closed() => continue,
                (None, false) => {
                    self.waiting.push(Waiting { uid, answer });
                    continue;
                }
            };
            // The plugin may have given up.
            drop(answer.send(outcome));
        }
    }
}

enum Step {
    Answer(Result<(), CniRefusal>),
    Wait(std::sync::Arc<str>),
}
