"""What a search leaves behind: its winner as the model of the job, and a report with plots. Imports no torch."""
