"""The operator's side of the cluster: what runs on the controller and is not Ansible."""
