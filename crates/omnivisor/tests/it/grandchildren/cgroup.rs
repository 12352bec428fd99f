//! A cgroup that is delegated to the supervisor.
