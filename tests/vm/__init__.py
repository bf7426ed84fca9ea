"""The playbooks on real machines: QEMU, systemd, and the servers of the tests. `ansible/test` runs them."""
