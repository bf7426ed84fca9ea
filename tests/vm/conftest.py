"""Tests on virtual machines take minutes, an hour where there is no KVM: only `ansible/test` collects them."""
