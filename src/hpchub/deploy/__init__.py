"""What Ansible's plugins call: checks of inventory files, and the roles' arguments."""
