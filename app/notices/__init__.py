"""What a question or an answer sets off: emergencies, identifiers, far from the cards. Knows no model."""
