//! The list of steps of a workflow.

/// The steps of a job by name, in order, and the one after which there is no way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    steps: Vec<String>,
    pivot: Option<usize>,
}

/// A list of steps that makes no plan; the programmer's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPlan {
    /// Two steps of one name.
    #[error("two steps are named {0:?}: the log could not tell them apart")]
    Twice(String),
    /// The pivot is not one of them.
    #[error("the pivot {0:?} is no step of the plan")]
    NoPivot(String),
}

impl Plan {
    /// A plan of these steps. Without a pivot every failure is undone.
    ///
    /// # Errors
    /// When a name comes twice or the pivot is no step.
    pub fn new(steps: &[&str], pivot: Option<&str>) -> Result<Self, BadPlan> {
        for (at, step) in steps.iter().enumerate() {
            if steps[..at].contains(step) {
                return Err(BadPlan::Twice((*step).to_owned()));
            }
        }
        let found = pivot.map(|name| {
            let at = steps.iter().position(|step| *step == name);
            at.ok_or_else(|| BadPlan::NoPivot(name.to_owned()))
        });
        Ok(Self {
            steps: steps.iter().map(|step| (*step).to_owned()).collect(),
            pivot: found.transpose()?,
        })
    }

    /// The names, in order.
    #[must_use]
    pub fn steps(&self) -> &[String] {
        &self.steps
    }

    /// The index of the pivot.
    #[must_use]
    pub fn pivot(&self) -> Option<usize> {
        self.pivot
    }

    /// The index of a step.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|step| step == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_each_step_once_and_a_pivot_that_exists() {
        let plan = Plan::new(&["a", "b"], Some("b")).unwrap();
        assert_eq!((plan.pivot(), plan.find("a")), (Some(1), Some(0)));
        assert!(matches!(
            Plan::new(&["a", "a"], None),
            Err(BadPlan::Twice(_))
        ));
        assert!(matches!(
            Plan::new(&["a"], Some("c")),
            Err(BadPlan::NoPivot(_))
        ));
    }
}
