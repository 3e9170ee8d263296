"""What supernets and float networks are made of; nothing here knows a genotype."""
